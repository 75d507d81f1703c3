"""What joining gives: of every partner what it has alone and what with the federation, and both over all users."""

from __future__ import annotations

from mmrec_model.evaluation.partner_quality import gains
from mmrec_model.evaluation.ranking import Ranks, paired_difference
from simulations.assessment import of_partner
from simulations.at_home import Joined
from simulations.panels import Panel
from simulations.run_record import AloneRecord, HomeRecord, JoiningRecord
from simulations.staying_alone import METRIC, AtHome


def alone_record(alone: AtHome, test: Panel, number: int) -> AloneRecord | None:
    """What one partner has alone; None where it has no user in the panel."""
    found = of_partner(alone.test, test, number)
    if found is None:
        return None
    return AloneRecord(system=alone.chosen[number], validation=dict(alone.validation.get(number, {})), metrics=found)


def home_record(joined: Joined | None, test: Panel, number: int) -> HomeRecord | None:
    """What one partner has with the federation; None where it has no user in the panel."""
    found = None if joined is None else of_partner(joined.test, test, number)
    if joined is None or found is None:
        return None
    weighed = joined.weighed[number]
    return HomeRecord(
        pairs_weight=weighed.terms.pairs_weight,
        prior_weight=weighed.terms.prior_weight,
        content_base=weighed.terms.content_base,
        validation=dict(weighed.validation),
        metrics=found,
    )


def joining_record(found: Ranks, alone: AtHome, test: Panel, seed: int) -> JoiningRecord:
    """What the federation gives over staying alone, by partner and over all users."""
    gained = [gain.mean for gain in gains(found, alone.test, test.partner_U, METRIC).values()]
    difference = paired_difference(found, alone.test, METRIC, seed=seed)
    return JoiningRecord(
        metric=METRIC,
        partners=len(gained),
        better=sum(gain > 0.0 for gain in gained),
        mean=sum(gained) / len(gained),
        worst=min(gained),
        difference=difference.mean,
        low=difference.low,
        high=difference.high,
        left_out=dict(alone.left_out),
    )
