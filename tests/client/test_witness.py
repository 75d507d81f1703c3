"""The witness block of a real site: it is the noise of the real step, and noise that is not right does not leave."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from client import training
from client.release import answer
from client.site import Site
from client.training import TrainedRound, train_round
from mmrec_model.config import RunConfig
from mmrec_model.data.histories import Histories
from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.privacy.records import Record
from mmrec_model.privacy.witness import Spread, expected_deviation
from mmrec_model.protocol import Kind


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site(max_epsilon=50.0)


def records(site: Site, kind: str) -> list[Record]:
    with site.open_ledger() as ledger:
        return [record for record in ledger.records if record.type == kind]


def train(
    site: Site,
    config: RunConfig,
    arrays: dict[str, np.ndarray],
    *,
    histories: Histories | None = None,
    **changes: object,
) -> TrainedRound:
    plan = config.model_copy(update={"training": config.training.model_copy(update=changes)})
    noise = GaussianNoise(seed=b"one and the same")
    return train_round(plan, site.items, histories or site.dataset.train, arrays, users=60, noise=noise)


def test_every_commit_states_the_block_and_its_correlation_with_the_round_before(site, make_request, config):
    for number in (1, 2, 3):
        result = answer(site, Kind.TRAIN, *make_request(number))
        assert result.arrays["witness"].shape == (1024,)
        spread = Spread().plus(result.arrays["witness"], expected_deviation(config, users=60, clip=1.0))
        facts = records(site, "commit")[-1].table("witness")
        assert facts["coordinates"] == 1024
        assert facts["deviation_ratio"] == spread.ratio
        assert 0.89 < spread.ratio < 1.11
        assert (facts["correlation"] is None) == (number == 1)
        assert abs(facts["correlation"] or 0.0) < 0.153


def test_the_block_does_not_change_what_the_weights_of_one_step_learn(site, make_request, config):
    _, arrays = make_request(1)
    with_block, without = (train(site, config, arrays, local_steps=1, witness_coordinates=k) for k in (1024, 0))
    assert without.witness.size == 0
    for name, update in with_block.update.items():
        assert update.tobytes() == without.update[name].tobytes()


def test_the_block_is_the_same_whatever_the_users_did(site, make_request, config):
    _, arrays = make_request(1)
    one = train(site, config, arrays)
    real = site.dataset.train
    other = train(site, config, arrays, histories=Histories(real.offsets, real.items.max() - real.items))
    assert one.witness.tobytes() == other.witness.tobytes()
    assert any(one.update[name].tobytes() != other.update[name].tobytes() for name in one.update)


def test_a_run_without_noise_has_no_block(make_site, make_request, config):
    private = config.privacy.model_dump() | {"mechanism": "none", "epsilon": None}
    private |= {"noise_multiplier": 0.0, "popularity_noise_multiplier": 0.0}
    bare = config.model_copy(update={"privacy": type(config.privacy)(**private)})
    open_site = make_site(allow_without_privacy=True)
    assert "witness" not in answer(open_site, Kind.TRAIN, *make_request(1, plan=bare)).arrays
    assert records(open_site, "commit")[-1].values["witness"] is None


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_noise_of_another_size_is_charged_and_neither_kept_nor_sent(factor, site, make_request, monkeypatch):
    real = GaussianNoise.draw
    monkeypatch.setattr(GaussianNoise, "draw", lambda self, count, sd: factor * real(self, count, sd))
    result = answer(site, Kind.TRAIN, *make_request(1))
    assert (result.reply.refusal, result.arrays) == ("site", {})
    assert len(records(site, "reserve")) == 1
    assert records(site, "commit") == []
    assert list(site.outbox.glob("*")) == []
    monkeypatch.undo()
    assert answer(site, Kind.TRAIN, *make_request(1)).reply.refusal == ""
    assert [record.whole("attempt") for record in records(site, "reserve")] == [0, 1]


def test_noise_that_repeats_is_found_in_the_next_round(site, make_request, monkeypatch):
    monkeypatch.setattr(Site, "noise", lambda self, purpose: GaussianNoise(seed=b"forgotten in the code"))
    assert answer(site, Kind.TRAIN, *make_request(1)).reply.refusal == ""
    assert answer(site, Kind.TRAIN, *make_request(2)).reply.refusal == "site"


def test_a_lost_or_damaged_block_of_the_round_before_stops_nothing(site, make_request):
    answer(site, Kind.TRAIN, *make_request(1))
    site.witness.write_bytes(b"\x93NUMPY")
    assert answer(site, Kind.TRAIN, *make_request(2)).reply.refusal == ""
    assert records(site, "commit")[-1].table("witness")["correlation"] is None


@pytest.mark.parametrize("change", ["noise_multiplier", "max_grad_norm", "expected_users", "sample_rate"])
def test_a_step_that_does_not_follow_the_plan_is_found_by_what_it_asked_for(
    change, site, make_request, config, monkeypatch
):
    real = training.private_step

    def other(model, optimizer, batches, loss, plan, *rest):
        changed = type(plan)(**{**vars(plan), change: getattr(plan, change) * 0.999})
        return real(model, optimizer, batches, loss, changed, *rest)

    monkeypatch.setattr(training, "private_step", other)
    with pytest.raises(PrivacyError, match="the plan says"):
        train(site, config, make_request(1)[1])


def test_a_step_that_leaves_weights_without_noise_is_found(site, make_request, config, monkeypatch):
    real = training.Metered.draw
    monkeypatch.setattr(
        training.Metered, "draw", lambda self, count, sd: real(self, count - 1, sd)[[0, *range(count - 1)]]
    )
    with pytest.raises(PrivacyError, match="numbers by deviation"):
        train(site, config, make_request(1)[1])
