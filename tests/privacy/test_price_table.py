from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mmrec_model.errors import PrivacyError
from mmrec_model.privacy import price_table as module
from mmrec_model.privacy.accounting import epsilon
from mmrec_model.privacy.events import GaussianRelease, NonPrivate, SampledGaussian
from mmrec_model.privacy.gaussian_dp import gaussian_epsilon
from mmrec_model.privacy.price_table import price_by_steps, price_table, require_agreement
from mmrec_model.privacy.replay import replay_epsilon, replay_profile

STEPS = SampledGaussian(0.05, 1.0943822791799904, 200)


def test_the_table_has_the_published_price_for_both_relations_and_several_partners() -> None:
    rows = price_table((STEPS,), (1e-5,), users_in=3)
    found = {(row.users_in, row.relation): row.epsilon for row in rows}
    assert found[1, "zero_out"] == pytest.approx(4.000, abs=1e-3)
    assert found[1, "replace_one"] == pytest.approx(6.228, abs=1e-3)
    assert found[3, "zero_out"] == pytest.approx(6.999, abs=1e-3)
    assert rows[0].mu_gdp == pytest.approx(0.925, abs=1e-3)
    assert all(row.agrees and row.renyi > row.epsilon for row in rows)
    require_agreement(rows)


def test_the_price_after_the_last_step_is_that_of_the_plan_and_grows_until_there() -> None:
    release, training = GaussianRelease(6.0), SampledGaussian(0.2, 2.0, 7)
    stages = price_by_steps((release,), training, 1e-5)
    assert [stage.steps for stage in stages] == [1, 2, 4, 5, 7]
    assert stages[-1].epsilon == pytest.approx(epsilon((release, training), 1e-5), abs=1e-6)
    assert sorted(stages, key=lambda stage: stage.epsilon) == stages
    require_agreement((), stages)


def test_one_composition_gives_the_replayed_price_at_every_delta() -> None:
    events = (GaussianRelease(2.0),)
    for relation, mu in (("zero_out", 0.5), ("replace_one", 1.0)):
        for delta, value in replay_profile(events, (1e-3, 1e-6), relation).items():
            assert (
                value == replay_epsilon(events, delta, relation) == pytest.approx(gaussian_epsilon(mu, delta), abs=1e-4)
            )


def test_without_noise_no_figure_is_finite_and_without_releases_all_are_zero() -> None:
    bare = price_table((NonPrivate(),), (1e-5,))
    assert all(math.isinf(row.epsilon) and row.mu_gdp is None and row.agrees for row in bare)
    assert bare[0].to_json()["epsilon"] is None
    assert [row.epsilon for row in price_table((), (1e-5,))] == [0.0, 0.0]
    with pytest.raises(PrivacyError):
        price_table((STEPS,), users_in=0)


def test_accountants_that_differ_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = module.replay_profile
    monkeypatch.setattr(module, "replay_profile", lambda *values: {d: e + 0.002 for d, e in honest(*values).items()})
    rows = price_table((GaussianRelease(2.0),), (1e-5,))
    assert not any(row.agrees for row in rows)
    with pytest.raises(PrivacyError, match="one accountant says"):
        require_agreement(rows)
    with pytest.raises(PrivacyError, match="one accountant says"):
        require_agreement([replace(rows[0], replayed=math.inf)])
