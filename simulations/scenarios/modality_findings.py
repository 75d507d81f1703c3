"""What a grid of modalities shows: the table, the choice, what each modality adds, and if that is the known answer.

Every figure is ndcg@10 on the test items, as a mean over users of the mean over seeds, with its standard error over
users. Choices are made on the validation items. Shapley values are exact over all subsets; the empty one is chance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TypeAlias, cast

import numpy as np

from mmrec_model.config import MODALITIES, Modality
from mmrec_model.evaluation.ranking import Ranks, per_user
from simulations.scenarios.grid_record import EXPORTED, CellFile, Estimate
from simulations.scenarios.interface import Evidence
from simulations.scenarios.modality_record import AnswerRecord, Contribution, Entry, ModalityFindings, Pair, State
from simulations.scenarios.shapley import Values, shapley
from simulations.synthetic.answer import KnownAnswer, planted_values

METRIC = "ndcg_at_10"
UNTRAINED = "free_content_with_prior"
MEAN = "mean"
CERTAIN = 2.0
"""Standard errors from which on a difference counts."""

Place: TypeAlias = tuple[str, str, frozenset[Modality]]
"""Hidden share, fusion, modalities."""


def conclude(evidence: Evidence) -> ModalityFindings:
    """Everything that follows from the cells."""
    cells, chance, known = evidence.cells, evidence.chance, evidence.known
    places: dict[Place, list[CellFile]] = defaultdict(list)
    for cell in cells:
        axes = cell.record.axes
        places[axes["hidden"], axes["fusion"], frozenset(cast("list[Modality]", axes["modalities"].split("+")))].append(
            cell
        )
    gains = {place: np.mean([_gain(cell) for cell in found], axis=0) for place, found in places.items()}
    table = [_entry(place, found, gains[place]) for place, found in places.items()]
    shares = _shares(gains, chance)
    contributions = [
        Contribution(
            fusion=fusion,
            hidden=hidden,
            values={name: estimate(share) for name, share in values.items()},
            full=full,
            empty=chance,
        )
        for (hidden, fusion), (values, full) in shares.items()
    ]
    hidden_shares = list(dict.fromkeys(entry.hidden for entry in table))
    best = [max((e for e in table if e.hidden == share), key=lambda entry: entry.validation) for share in hidden_shares]
    mean = shares.get(("0", MEAN))
    answer = None if known is None or mean is None else judge(mean[0], known)
    return ModalityFindings(table=table, best=best, contributions=contributions, answer=answer)


def estimate(values_U: Values) -> Estimate:
    """Mean over users and its standard error."""
    return Estimate(value=float(values_U.mean()), error=float(values_U.std() / np.sqrt(values_U.size)))


def judge(found: Mapping[Modality, Values], known: KnownAnswer) -> AnswerRecord:
    """Whether signs and order of what the modalities add are those of the truth.

    A sign or pair is recovered where the figure is at least two standard errors on the side of the truth, contradicted
    where it is as far on the other side, and undecided between them.

    Args:
        found: Shapley values per user.
        known: the truth.
    """
    names = [name for name in MODALITIES if name in found]
    game = {chosen: np.array([value]) for chosen, value in planted_values(known, names).items()}
    planted = {name: float(value[0]) for name, value in shapley(game, names).items()}
    pairs = []
    for pair in combinations(sorted(names, key=lambda name: -planted[name]), 2):
        difference = estimate(found[pair[0]] - found[pair[1]])
        apart = planted[pair[0]] - planted[pair[1]]
        pairs.append(Pair(first=pair[0], second=pair[1], planted=apart, found=difference, state=_state(difference)))
    signs = {name: _state(estimate(found[name])) for name in names}
    return AnswerRecord(
        planted=planted,
        found={name: estimate(found[name]) for name in names},
        signs=signs,
        pairs=pairs,
        recovered=set(signs.values()) == {"recovered"} and all(pair.state != "contradicted" for pair in pairs),
    )


def _state(found: Estimate) -> State:
    if abs(found.value) < CERTAIN * found.error or found.value == 0.0:
        return "undecided"
    return "recovered" if found.value > 0 else "contradicted"


def _gain(cell: CellFile) -> Values:
    rank_U = np.asarray(cell.test_ranks[EXPORTED], dtype=np.int64)
    return per_user(Ranks(rank_U, rank_U), METRIC)


def _entry(place: Place, found: Sequence[CellFile], gain_U: Values) -> Entry:
    hidden, fusion, chosen = place
    return Entry(
        modalities=tuple(name for name in MODALITIES if name in chosen),
        fusion=fusion,
        hidden=hidden,
        seeds=len(found),
        validation=float(np.mean([cell.record.validation.ndcg_at_10 for cell in found])),
        test=estimate(gain_U),
        untrained=float(np.mean([cell.record.floors[UNTRAINED].ndcg_at_10 for cell in found])),
    )


def _shares(
    gains: Mapping[Place, Values], chance: float
) -> dict[tuple[str, str], tuple[dict[Modality, Values], float]]:
    """Per hidden share and fusion with all subsets: Shapley values per user, and the figure of all modalities."""
    everything = frozenset[Modality]().union(*(chosen for _, _, chosen in gains))
    names = [name for name in MODALITIES if name in everything]
    groups: dict[str, dict[str, dict[frozenset[Modality], Values]]] = defaultdict(lambda: defaultdict(dict))
    for (hidden, fusion, chosen), gain_U in gains.items():
        groups[hidden][fusion][chosen] = gain_U
    shares = {}
    for hidden, fusions in groups.items():
        whole = {fusion: game for fusion, game in fusions.items() if len(game) == 2 ** len(names) - 1}
        if not whole:
            continue
        subsets = next(iter(whole.values()))
        games = {**whole, MEAN: {s: np.mean([game[s] for game in whole.values()], axis=0) for s in subsets}}
        for fusion, game in games.items():
            empty = np.full_like(next(iter(game.values())), chance)
            shares[hidden, fusion] = (
                shapley({frozenset(): empty, **game}, names),
                float(game[everything].mean()),
            )
    return shares
