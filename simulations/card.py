"""The card of an exported model: what a stranger must know before using it, in Markdown."""

from __future__ import annotations

from simulations.run_record import RunRecord


def write_card(record: RunRecord) -> str:
    """The card's text, from the run's record alone."""
    privacy, names = record.privacy, ", ".join(partner.name for partner in record.partners)
    price = (
        f"Each user of each partner: epsilon {privacy.epsilon:.3f} at delta {privacy.delta:g} (one user's data "
        f"replaced by nothing); replacing a user's data by another's: epsilon {privacy.epsilon_replace_one:.3f}. "
        "A person with data at several partners pays at each of them."
        if privacy.epsilon is not None and privacy.epsilon_replace_one is not None
        else "None: this model was trained without noise and may reveal its training users."
    )
    best = record.floors[record.verdict.best_floor]
    modalities = "\n".join(
        f"- {name}: {facts.encoder} ({facts.note}); {facts.present} of {facts.present + facts.missing} items"
        for name, facts in record.features.modalities.items()
    )
    return f"""# Federated multimodal recommender

Trained on {record.data.name}: {record.data.users} users of {record.data.partners} partners ({names}),
{record.data.items} items. Feature bundle {record.features.digest}.

## Price of privacy

{price}
{privacy.note}

## Quality on held-out items, full ranking, {record.users_evaluated} users

| system | recall@10 | ndcg@10 |
|---|---|---|
| this model | {record.metrics.recall_at_10:.4f} | {record.metrics.ndcg_at_10:.4f} |
| best floor ({record.verdict.best_floor}) | {best.recall_at_10:.4f} | {best.ndcg_at_10:.4f} |

## Trained

Scope {record.model.scope}: {record.model.trained_weights} of {record.model.weights} weights.

## Features

{modalities}

## Not protected

The catalogue, the number of users of each partner and the plan are public. These figures come from held-out data of a
simulation and carry no noise. Accounts are protected, not persons: somebody with two accounts pays twice.
"""
