"""What a rival that was found beside the cells of a grid leaves on disk (`simulations.scenarios.rival_runs`)."""

from __future__ import annotations

from pydantic import JsonValue

from mmrec_model.config_types import Digest, Strict
from simulations.run_record import Amount, Natural, Share


class TrialRecord(Strict):
    """One configuration on the validation items: its settings and its ndcg@10 over the seeds of the search."""

    settings: dict[str, JsonValue]
    ndcg_at_10: Share


class RivalRecord(Strict):
    """How a rival was found.

    Attributes:
        name: of the rival.
        epsilon: its price; null for none.
        noise: who adds its noise, `central` or `local`; null without a price.
        trials: everything that was tried.
        chosen: place of the best in `trials`.
        seeds: of every trial.
        selection: what the choice looked at.
        seconds: of the search and of the test runs.
    """

    name: str
    epsilon: Amount | None
    noise: str | None
    trials: list[TrialRecord]
    chosen: Natural
    seeds: list[Natural]
    selection: str
    seconds: Amount

    @property
    def validation(self) -> float:
        """ndcg@10 of the chosen configuration on the validation items."""
        return self.trials[self.chosen].ndcg_at_10


class RivalFile(Strict):
    """A rival that was found.

    Attributes:
        inputs: digest of all that it was found from.
        record: how.
        test_ranks: by seed, the rank of every test user's item; users stand in the order of their ids. A rival that
            draws nothing has one seed.
        train_items_alone: with the first seed, ranks of the same items when the validation item is no input; null where
            not measured.
    """

    inputs: Digest
    record: RivalRecord
    test_ranks: dict[str, list[Natural]]
    train_items_alone: list[Natural] | None
