"""Code that cannot show its bound and its noise spends nothing, and the ledger says which code spent what."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from client import attestation, plan_replay, site, training
from client.attestation import attest_code, run_self_test
from client.gradients import ClippedSum, gradients_by_name
from client.gradients.contract import count_users
from client.made_up_plan import PlanShape
from client.release import answer
from mmrec_model.errors import PolicyRefusal, PrivacyError
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.privacy.noise import SEEDED_SOURCE, SYSTEM_SOURCE, GaussianNoise
from mmrec_model.protocol import Kind

DIGEST, SHAPE = "a" * 64, PlanShape(modalities=("text",))
"""Of the fixture's plan."""


@pytest.fixture(autouse=True)
def fresh_process():
    run_self_test.cache_clear()
    yield
    run_self_test.cache_clear()


def records(made) -> list:
    with made.open_ledger() as ledger:
        return list(ledger.records)


def types(made) -> list[str]:
    return [str(record.type) for record in records(made)]


@pytest.fixture
def attest(config):
    """Test the code for the plan, or for another one."""

    def run(made, plan=config) -> None:
        with made.open_ledger() as ledger:
            attest_code(ledger, made, plan)

    return run


@pytest.mark.parametrize("source_name", [SYSTEM_SOURCE, SEEDED_SOURCE])
def test_the_installed_code_passes_and_is_tested_once(source_name):
    result = run_self_test(DIGEST, source_name, SHAPE)
    assert result.passed
    assert (result.rng, result.neighbour_replay) == ("passed", "passed")
    assert run_self_test(DIGEST, source_name, SHAPE) is result


def test_testing_leaves_the_random_numbers_of_the_process_alone():
    before = torch.get_rng_state()
    run_self_test(DIGEST, SYSTEM_SOURCE, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


class Unclipped:
    """Forgets the clip."""

    name = "bookkeeping"

    def clipped_sum(self, model, user_loss, batch, max_grad_norm) -> ClippedSum:
        return gradients_by_name(self.name).clipped_sum(model, user_loss, batch, 100.0 * max_grad_norm)


class Silent:
    """Bounds a user by releasing nothing of him."""

    name = "bookkeeping"

    def clipped_sum(self, model, user_loss, batch, max_grad_norm) -> ClippedSum:
        real = gradients_by_name(self.name).clipped_sum(model, user_loss, batch, max_grad_norm)
        return ClippedSum([torch.zeros_like(total) for total in real.sums], real.local_norms_B)


class Refusing:
    """Does not take the model."""

    name = "bookkeeping"

    def clipped_sum(self, *_arguments) -> ClippedSum:
        raise PrivacyError("this layer has no rule", remedy="Write one")


@pytest.mark.parametrize("broken", [Unclipped, Silent, Refusing])
def test_a_step_that_does_not_bound_a_user_or_ignores_him_fails(broken, monkeypatch):
    monkeypatch.setattr(plan_replay, "gradients_by_name", lambda _: broken())
    result = run_self_test(DIGEST, SYSTEM_SOURCE, SHAPE)
    assert (result.neighbour_replay, result.rng, result.passed) == ("failed", "passed", False)


def mean_over_users(model, catalogue, batch, kind):
    users = real_loss(model, catalogue, batch, kind)
    return users / max(1, count_users(batch))


def others_subtracted(model, catalogue, batch, kind):
    users = real_loss(model, catalogue, batch, kind)
    return users - 0.5 * users.nan_to_num().detach().mean() * users


real_loss = training.user_losses


@pytest.mark.parametrize("mixed", [mean_over_users, others_subtracted])
def test_a_loss_in_which_users_meet_fails(mixed, monkeypatch):
    monkeypatch.setattr(training, "user_losses", mixed)
    assert run_self_test(DIGEST, SYSTEM_SOURCE, SHAPE).neighbour_replay == "failed"


def source(draw, name=SYSTEM_SOURCE):
    """A class of noise that draws otherwise; a seeded one, which the replay needs, is left as it is."""

    def make(*, seed=None):
        return GaussianNoise(seed=seed) if seed is not None else SimpleNamespace(draw=draw, source=name)

    return make


def honest(count, deviation):
    return GaussianNoise().draw(count, deviation)


BAD_NOISE = {
    "the same numbers again": lambda count, deviation: GaussianNoise(seed=b"x").draw(count, deviation),
    "none": lambda count, deviation: np.zeros(count),
    "0.95 of the deviation": lambda count, deviation: 0.95 * honest(count, deviation),
    "a shift": lambda count, deviation: honest(count, deviation) + 0.05,
    "not a number": lambda count, deviation: np.full(count, np.nan),
}


@pytest.mark.parametrize("name", BAD_NOISE)
def test_noise_that_is_not_what_was_asked_for_fails(name, monkeypatch):
    monkeypatch.setattr(attestation, "GaussianNoise", source(BAD_NOISE[name]))
    result = run_self_test(DIGEST, SYSTEM_SOURCE, SHAPE)
    assert (result.rng, result.neighbour_replay) == ("failed", "passed")


def test_noise_of_another_source_than_configured_fails(monkeypatch):
    monkeypatch.setattr(attestation, "GaussianNoise", source(honest))
    assert run_self_test(DIGEST, SYSTEM_SOURCE, SHAPE).rng == "passed"
    run_self_test.cache_clear()
    monkeypatch.setattr(attestation, "GaussianNoise", source(honest, SEEDED_SOURCE))
    assert run_self_test(DIGEST, SYSTEM_SOURCE, SHAPE).rng == "failed"


def test_the_ledger_names_the_code_its_libraries_and_its_statistics(make_site, attest):
    made = make_site(seed=None)
    attest(made)
    assert types(made) == ["open", "code", "data_prep"]
    _, code, prepared = records(made)
    assert code.text("wheel_digest") == made.code_digest
    assert set(code.table("versions")) == {"torch", "opacus", "numpy", "dp_accounting"}
    assert code.table("versions")["numpy"] == np.__version__
    assert (code.text("rng_self_test"), code.text("neighbour_replay")) == ("passed", "passed")
    assert len(code.text("neighbour_replay_digest")) == 64
    public = {"origin": "public", "charge": None}
    assert prepared.table("statistics") == {"item_vocabulary": public, "catalogue_transform": public}


def test_other_code_is_recorded_with_the_statistics_that_were_paid_for_by_then(
    make_site, make_request, monkeypatch, attest
):
    made = make_site()
    attest(made)
    answer(made, Kind.POPULARITY, *make_request(0))
    monkeypatch.setattr(site, "code_digest", lambda: DIGEST)
    attest(made)
    assert types(made)[3:] == ["plan", "reserve", "commit", "code", "data_prep"]
    popularity, code, prepared = (records(made)[place] for place in (4, 6, 7))
    assert code.text("wheel_digest") == DIGEST
    assert prepared.table("statistics")["popularity"] == {"origin": "dp", "charge": popularity.hash}


def test_the_popularity_that_was_paid_for_is_stated_before_the_first_training_step_and_once(make_site, make_request):
    made = make_site()
    answer(made, Kind.POPULARITY, *make_request(0))
    for round_number in (1, 2):
        assert answer(made, Kind.TRAIN, *make_request(round_number)).reply.refusal == ""
    spend = ["reserve", "commit"]
    assert types(made) == ["open", "code", "data_prep", "plan", *spend, "data_prep", *spend, *spend]
    popularity, prepared = (records(made)[place] for place in (4, 6))
    assert prepared.table("statistics")["popularity"] == {"origin": "dp", "charge": popularity.hash}


def test_code_that_fails_spends_nothing(make_site, make_request, monkeypatch):
    made = make_site()
    monkeypatch.setattr(plan_replay, "gradients_by_name", lambda _: Unclipped())
    for kind, round_number in ((Kind.DESCRIBE, 0), (Kind.POPULARITY, 0), (Kind.TRAIN, 1)):
        assert answer(made, kind, *make_request(round_number)).reply.refusal == "self-test"
    assert not {"plan", "reserve"} & set(types(made))
    monkeypatch.undo()
    run_self_test.cache_clear()
    assert answer(made, Kind.TRAIN, *make_request(1)).reply.refusal == ""


def test_a_failure_is_recorded_once_and_replaced_by_a_later_pass(make_site, monkeypatch, attest):
    made = make_site()
    monkeypatch.setattr(plan_replay, "gradients_by_name", lambda _: Unclipped())
    for _ in range(2):
        with pytest.raises(PolicyRefusal, match="self-test"):
            attest(made)
    assert types(made) == ["open", "code"]
    assert records(made)[-1].text("neighbour_replay") == "failed"
    monkeypatch.undo()
    run_self_test.cache_clear()
    attest(made)
    assert types(made) == ["open", "code", "code", "data_prep"]


def test_a_crash_behind_the_code_record_is_made_good_at_the_next_start(make_site, monkeypatch, attest):
    made = make_site()
    real_append = Ledger.append

    def die(ledger, record_type, body):
        if record_type == "data_prep":
            raise KeyboardInterrupt
        return real_append(ledger, record_type, body)

    monkeypatch.setattr(Ledger, "append", die)
    with pytest.raises(KeyboardInterrupt):
        attest(made)
    monkeypatch.undo()
    assert types(made) == ["open", "code"]
    attest(made)
    assert types(made) == ["open", "code", "data_prep"]


def counted_tests(monkeypatch) -> list[PlanShape]:
    """The shapes of all tests from now on; not one of them is remembered from before."""
    shapes: list[PlanShape] = []
    real = run_self_test.__wrapped__
    monkeypatch.setattr(attestation, "run_self_test", lambda *given: (shapes.append(given[-1]), real(*given))[1])
    return shapes


def test_a_plan_that_passed_is_neither_tested_nor_recorded_again(make_site, make_request, monkeypatch, attest):
    made, shapes = make_site(), counted_tests(monkeypatch)
    answer(made, Kind.DESCRIBE, *make_request(0))
    answer(made, Kind.TRAIN, *make_request(1))
    attest(made)
    assert shapes == [SHAPE]
    assert types(made) == ["open", "code", "data_prep", "plan", "reserve", "commit"]


def test_every_new_plan_is_tested_with_its_own_model_and_a_pass_is_recorded_once(
    make_site, make_request, config, monkeypatch
):
    made, shapes = make_site(max_epsilon=50.0), counted_tests(monkeypatch)
    model = config.model.model_copy(update={"fusion": "gated"})
    for number, plan in enumerate((config, config.model_copy(update={"run_id": "next", "model": model}))):
        assert answer(made, Kind.TRAIN, *make_request(number + 1, plan=plan)).reply.refusal == ""
    assert shapes == [PlanShape(modalities=("text",)), PlanShape(fusion="gated", modalities=("text",))]
    assert types(made).count("code") == 1


def test_a_family_that_fails_is_refused_alone_and_the_others_go_on(make_site, make_request, config, monkeypatch):
    made = make_site(max_epsilon=50.0)
    real = plan_replay.made_up_model
    gated = config.model_copy(update={"run_id": "gated", "model": config.model.model_copy(update={"fusion": "gated"})})

    def broken(shape):
        model = real(shape)
        if shape.fusion == "gated":
            model.model.public_weights += np.nan
        return model

    monkeypatch.setattr(plan_replay, "made_up_model", broken)
    assert answer(made, Kind.TRAIN, *make_request(1)).reply.refusal == ""
    for _ in range(2):
        assert answer(made, Kind.DESCRIBE, *make_request(0, plan=gated)).reply.refusal == "self-test"
    assert types(made)[-1] == "code"
    assert records(made)[-1].text("neighbour_replay") == "failed"
    assert types(made).count("code") == 2
    assert answer(made, Kind.TRAIN, *make_request(2)).reply.refusal == ""
    assert types(made)[-4:] == ["code", "data_prep", "reserve", "commit"]


def test_code_that_is_replaced_in_the_middle_of_a_run_is_tested_once_for_the_plan(make_site, make_request, monkeypatch):
    made, shapes = make_site(), counted_tests(monkeypatch)
    answer(made, Kind.TRAIN, *make_request(1))
    monkeypatch.setattr(site, "code_digest", lambda: DIGEST)
    for number in (2, 3):
        assert answer(made, Kind.TRAIN, *make_request(number)).reply.refusal == ""
    assert shapes == 2 * [SHAPE]


def test_other_versions_of_the_libraries_are_recorded_anew(make_site, monkeypatch, attest):
    made = make_site()
    attest(made)
    monkeypatch.setattr(attestation, "version", lambda name: f"{name}-next")
    attest(made)
    assert types(made) == ["open", "code", "data_prep", "code", "data_prep"]
