"""What an operator is shown of a run: all releases, the price of the whole plan, what is left, limits that are near."""

from __future__ import annotations

import math

import pytest

from client.dry_run import rehearse
from client.pricing import price
from client.proposal import propose
from mmrec_model.errors import PolicyRefusal
from mmrec_model.planning import plan_events


def test_the_price_is_that_of_the_whole_plan_by_both_relations(make_site, config):
    proposal = propose(make_site(), config)
    assert proposal.zero_out == price(plan_events(config), 1e-3)
    assert proposal.replace_one == price(plan_events(config), 1e-3, "replace_one") > proposal.zero_out
    assert [release.kind for release in proposal.releases] == ["popularity", "train"]
    assert tuple(release.event for release in proposal.releases) == plan_events(config)


def test_what_other_runs_spent_comes_first_and_what_is_left_is_behind_it(make_site, config):
    site = make_site(max_epsilon=10.0)
    rehearse(site, config.model_copy(update={"run_id": "other"}), 0, "popularity", {})
    rehearse(site, config, 0, "popularity", {})
    proposal = propose(site, config)
    others = plan_events(config)[:1]
    assert proposal.others == price(others, 1e-3)
    assert proposal.total == price((*others, *plan_events(config)), 1e-3)
    assert proposal.remaining == 10.0 - proposal.total


def test_nothing_is_written_or_charged_by_looking(make_site, config):
    site = make_site()
    before = {path: path.read_bytes() for path in site.root.rglob("*") if path.is_file()}
    propose(site, config)
    assert {path: path.read_bytes() for path in site.root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_rounds": 2}, "rounds"),
        ({"allowed_releases": ("popularity",)}, "release"),
        ({"max_epsilon": 1.0}, "budget"),
    ],
)
def test_what_the_policy_refuses_cannot_be_approved(limits, code, make_site, config):
    with pytest.raises(PolicyRefusal) as caught:
        propose(make_site(**limits), config)
    assert caught.value.code == code


def test_metrics_that_stay_at_home_are_shown_as_refused_and_the_run_goes_on(make_site, config):
    evaluation = config.evaluation.model_copy(
        update={"metrics": ("recall_at_10",), "every": 1, "noise_multiplier": 4.0}
    )
    proposal = propose(make_site(), config.model_copy(update={"evaluation": evaluation}))
    assert {release.kind: bool(release.refusal) for release in proposal.releases} == {
        "popularity": False,
        "train": False,
        "evaluate": True,
    }


def test_a_limit_is_near_from_four_fifths_of_it_on(make_site, config):
    near = {limit.code: limit for limit in propose(make_site(max_rounds=3, max_steps=8), config).near}
    assert (near["rounds"].asked, near["rounds"].limit) == (3, 3)
    assert "steps" not in near


def test_a_budget_that_the_run_nearly_uses_up_is_a_near_limit(make_site, config):
    limit = 1.1 * price(plan_events(config), 1e-3)
    assert "budget" in {near.code for near in propose(make_site(max_epsilon=limit), config).near}
    assert "budget" not in {near.code for near in propose(make_site("ample", max_epsilon=50.0), config).near}


def test_a_run_without_noise_has_no_price(make_site, config):
    privacy = {"mechanism": "none", "epsilon": None, "noise_multiplier": 0.0, "popularity_noise_multiplier": 0.0}
    bare = config.model_copy(update={"privacy": config.privacy.model_copy(update=privacy)})
    proposal = propose(make_site(allow_without_privacy=True), bare)
    assert math.isinf(proposal.zero_out)
    assert math.isinf(proposal.limit)
