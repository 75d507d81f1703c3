"""What the report promises to one person, and what it does not: the guarantee of a run record in plain sentences.

The numbers are the record's own; nothing here computes a price. The limits are listed whether or not anybody asks.
"""

from __future__ import annotations

import math
from collections import Counter
from statistics import NormalDist

from mmrec_model.privacy.noise import SEEDED_SOURCE
from simulations.report_numbers import delta_in_words, plain_delta
from simulations.run_record import RunRecord

_RELATIONS = {
    "zero_out": "one person's whole data replaced by nothing; the number of people is public",
    "replace_one": "one person's whole data replaced by another person's",
}


def guarantee(record: RunRecord) -> list[str]:
    """The promise to one person, in sentences that read on from each other."""
    privacy = record.privacy
    if privacy.epsilon is None:
        return [
            "This run gives no differential privacy.",
            "What the partners sent was made from their users' data without noise and may reveal who is in it.",
            "Use such a run for public or synthetic data only.",
        ]
    delta = plain_delta(privacy.delta)
    sentences = [
        (
            "If any one person's whole data at a partner had been absent, everything this partner sent would have "
            "been nearly as likely: the run is (ε, δ)-differentially private for each person at each partner, with "
            f"ε = {privacy.epsilon:.2f} and δ = {delta}{delta_in_words(privacy.delta)}."
        ),
        (
            "In odds: whatever someone believed about a person before, these messages change the odds by a factor of "
            f"at most {_factor(privacy.epsilon)}, but for a failure probability of {delta}."
        ),
    ]
    if privacy.mu_gdp is not None:
        caught = NormalDist().cdf(NormalDist().inv_cdf(0.01) + privacy.mu_gdp)
        sentences.append(
            f"A single Gaussian release of this strength has μ = {privacy.mu_gdp:.2f}: an attacker who accepts 1 % "
            f"false alarms would recognise {caught:.0%} of the people who are in the data."
        )
    if privacy.epsilon_replace_one is not None:
        sentences.append(
            f"If a person's data were exchanged for another person's instead, ε is {privacy.epsilon_replace_one:.2f}."
        )
    return sentences


def covered(record: RunRecord) -> list[str]:
    """What the guarantee covers."""
    return [
        f"Everything the partners sent in this run, added up: {plan_sentence(record)}.",
        "A person's whole history at a partner, not one click at a time.",
        (
            "Every reader of those messages, the coordinator included, with any other knowledge, for all time, and "
            "whatever is computed from them: the model, its copies, its recommendations."
        ),
    ]


def not_covered(record: RunRecord) -> list[str]:
    """What the guarantee does not cover."""
    limits = [
        "People with data at several partners: their prices add up.",
        "The number of people at each partner, and that the partner takes part: both are public.",
        "The catalogue: texts, pictures, sound and film of the items are treated as public.",
        "Quality figures that were not released: they come from held-out rows, without noise, for the data's owner.",
        "Settings chosen by looking at such figures in earlier runs.",
        "Partner software that is faulty or dishonest: no examination of messages can prove that noise was added.",
    ]
    if record.privacy.noise_source == SEEDED_SOURCE:
        limits.insert(0, "Anyone who knows the seed: this run's noise can be repeated, so it protects nobody for real.")
    return limits


def plan_sentence(record: RunRecord) -> str:
    """The planned releases, counted: "1 noised sum, 40 noised training steps"."""
    counts: Counter[str] = Counter()
    for event in record.privacy.plan:
        size = event.get("count", event.get("steps", 1))
        counts[str(event.get("type", "release"))] += int(size) if isinstance(size, int | float | str) else 1
    names = {
        "gaussian": ("noised sum over all people", "noised sums over all people"),
        "sampled_gaussian": ("noised training step", "noised training steps"),
    }
    parts = [
        f"{count:,} {names.get(kind, (kind, kind))[0 if count == 1 else 1].replace('_', ' ')}"
        for kind, count in counts.items()
    ]
    return " and ".join(parts) or "no release"


def relation_text(relation: str) -> str:
    """The neighbouring relation in words."""
    return _RELATIONS.get(relation, relation)


def _factor(epsilon: float) -> str:
    if epsilon >= 20:
        return f"e to the power of {epsilon:.2f}, which is no protection"
    return f"{math.exp(epsilon):,.{0 if epsilon >= 3 else 1}f} (e to the power of ε)"
