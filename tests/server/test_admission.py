"""The gate: what it must accept (honest noise, always), what it must refuse, and in which order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.config import FeatureSpec, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.errors import AdmissionError, PrivacyError
from mmrec_model.planning import adaptive_clipping
from mmrec_model.protocol import Kind, Reply, Request
from server.admission import (
    MAX_USERS,
    Expected,
    Reason,
    admit_description,
    admit_reply,
    check_arrays,
    printable,
    public_norm_bound,
    public_share_bound,
    public_sum_bound,
)

SHAPES = {"a": (2, 3), "b": (4,)}
REQUEST = Request("run", 5, "{}", "digest")
EXPECTED = Expected(REQUEST, Kind.TRAIN, SHAPES, {"fr": 300}, {"fr": 10.0})
REPLY = Reply("fr", "run", 5, Kind.TRAIN.value, "digest", 300)


def arrays(scale: float = 1.0) -> dict[str, np.ndarray]:
    return {name: np.full(shape, scale, np.float32) for name, shape in SHAPES.items()}


def config(*, sigma: float, steps: int, rate: float, learning_rate: float = 1.0, clip: float = 1.0) -> RunConfig:
    noisy = sigma > 0.0
    return RunConfig(
        run_id="bounds",
        seed=0,
        features=FeatureSpec(digest="0" * 64, items=500, dims={"text": 4}),
        training=TrainingConfig(local_steps=steps, sample_rate=rate, learning_rate=learning_rate),
        privacy=PrivacyConfig(
            mechanism="gaussian" if noisy else "none",
            epsilon=8.0 if noisy else None,
            noise_multiplier=sigma,
            popularity_noise_multiplier=sigma,
            max_grad_norm=clip,
        ),
    )


def reason_of(
    reply: Reply,
    values: dict[str, np.ndarray],
    *,
    sender: str = "fr",
    seen: frozenset[str] = frozenset(),
    expected: Expected = EXPECTED,
) -> str:
    with pytest.raises(AdmissionError) as error:
        admit_reply(reply, values, sender=sender, expected=expected, seen=seen)
    return error.value.reason


def test_an_honest_reply_is_returned_unchanged() -> None:
    values = arrays()
    assert admit_reply(REPLY, values, sender="fr", expected=EXPECTED, seen=frozenset()) is values


def test_the_first_failed_check_gives_the_reason_in_the_order_of_the_list() -> None:
    """Start with a reply that fails every check, mend one after the other, and read the reasons in code order."""
    reply = Reply("xx", "other", 4, "query", "stale", 7, refusal="no")
    values = {"b": np.full((3,), np.nan, np.float64), "c": np.zeros(1, np.float32)}
    found = [reason_of(reply, values, seen=frozenset({"fr"}))]
    reply = replace(reply, partner="fr")
    for mend in ({"run_id": "run"}, {"kind": "train"}, {"round": 5}, {"refusal": ""}):
        found.append(reason_of(reply, values, seen=frozenset({"fr"})))
        reply = replace(reply, **mend)  # type: ignore[arg-type]
    found.append(reason_of(reply, values, seen=frozenset({"fr"})))
    for mend in ({"model_digest": "digest"}, {"users": 300}):
        found.append(reason_of(reply, values))
        reply = replace(reply, **mend)  # type: ignore[arg-type]
    found.append(reason_of(reply, values))
    values["a"] = np.full((2, 3), 1e9, np.float32)
    found.append(reason_of(reply, values))
    del values["c"]
    found.append(reason_of(reply, values))
    values["b"] = np.full((3,), np.nan, np.float32)
    found.append(reason_of(reply, values))
    values["b"] = np.full((4,), np.nan, np.float32)
    found.append(reason_of(reply, values))
    values["b"] = np.zeros((4,), np.float32)
    found.append(reason_of(reply, values))
    counted = replace(EXPECTED, shapes={**SHAPES, "clip_share": (1,)}, max_shares={"fr": 0.5})
    values["a"], values["clip_share"] = np.zeros((2, 3), np.float32), np.ones(1, np.float32)
    found.append(reason_of(reply, values, expected=counted))
    listed = [reason.value for reason in Reason]
    assert found == listed[listed.index("unknown_partner") : listed.index("clip_share") + 1]


@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.sampled_from(sorted(SHAPES)), st.integers(0, 3))
def test_one_value_that_is_not_finite_is_refused_and_its_array_named(value: float, name: str, place: int) -> None:
    values = arrays()
    values[name].flat[place] = value
    with pytest.raises(AdmissionError, match=f"array '{name}'") as error:
        check_arrays(values, shapes=SHAPES, max_norm=np.inf)
    assert error.value.reason == Reason.NON_FINITE


@given(st.floats(0.0, 20.0))
def test_exactly_the_norms_up_to_the_bound_pass(scale: float) -> None:
    values = arrays(np.float32(scale))
    norm = float(np.float32(scale)) * np.sqrt(10.0)
    if norm <= 10.0 * (1 - 1e-9):
        check_arrays(values, shapes=SHAPES, max_norm=10.0)
    elif norm > 10.0 * (1 + 1e-9):
        with pytest.raises(AdmissionError, match="norm"):
            check_arrays(values, shapes=SHAPES, max_norm=10.0)


@pytest.mark.parametrize("partner", ["", " ", "x" * 65, "a\tb", "a\x00", "\u202efr"])
def test_a_name_that_an_operator_cannot_read_is_refused(partner: str) -> None:
    with pytest.raises(AdmissionError):
        admit_description(Reply(partner, "run", 0, Kind.DESCRIBE.value, users=5), {}, request=Request("run", 0, "{}"))


@pytest.mark.parametrize(("users", "good"), [(-1, False), (0, False), (1, True), (MAX_USERS, True), (10**12, False)])
def test_users_are_between_one_and_the_limit(users: int, good: bool) -> None:
    reply = Reply("fr", "run", 0, Kind.DESCRIBE.value, users=users)
    if good:
        admit_description(reply, {}, request=Request("run", 0, "{}"))
    else:
        with pytest.raises(AdmissionError):
            admit_description(reply, {}, request=Request("run", 0, "{}"))


def test_a_description_carries_no_arrays() -> None:
    reply = Reply("fr", "run", 0, Kind.DESCRIBE.value, users=5)
    with pytest.raises(AdmissionError) as error:
        admit_description(reply, {"users": np.zeros(3, np.float32)}, request=Request("run", 0, "{}"))
    assert error.value.reason == Reason.EXTRA_ARRAY


@given(st.text(max_size=2000))
def test_text_of_a_partner_becomes_one_short_printable_line(text: str) -> None:
    line = printable(text)
    assert len(line) <= 300
    assert line.isprintable()


HONEST = [
    (sigma, steps, rate, users, width)
    for sigma in (0.0, 0.5, 4.0)
    for steps in (1, 10)
    for rate in (0.01, 0.2, 1.0)
    for users, width in ((1, 10), (20, 4000), (3000, 50), (3000, 20_000))
]


@pytest.mark.parametrize(("sigma", "steps", "rate", "users", "width"), HONEST)
def test_an_honest_update_stays_under_the_public_bound(
    sigma: float, steps: int, rate: float, users: int, width: int
) -> None:
    """Worst honest partner: half again as many users as it states, all gradients at the clip and in one direction."""
    plan = config(sigma=sigma, steps=steps, rate=rate, learning_rate=0.5, clip=2.0)
    bound = public_norm_bound(plan, users=users, width=width, clip=plan.privacy.max_grad_norm)
    draw = np.random.default_rng(3)
    for _ in range(50):
        sampled = draw.binomial(int(1.5 * users), rate, size=steps).sum()
        total = sigma * 2.0 * np.sqrt(steps) * draw.normal(size=width)
        total[0] += 2.0 * sampled
        assert 0.5 * np.linalg.norm(total) / (rate * users) <= bound


def test_the_bound_refuses_an_update_with_ten_times_the_noise_or_without_the_divisor() -> None:
    plan = config(sigma=1.0, steps=1, rate=0.2)
    users, width = 1000, 20_000
    honest = np.sqrt(width) / (0.2 * users)
    bound = public_norm_bound(plan, users=users, width=width, clip=plan.privacy.max_grad_norm)
    assert honest < bound < 10 * honest
    assert bound < honest * 0.2 * users


@pytest.mark.parametrize("share", [-0.5, 0.0, 0.5])
def test_a_share_within_its_bound_passes_and_is_no_part_of_the_norm(share: float) -> None:
    counted = replace(
        EXPECTED,
        shapes={**SHAPES, "clip_share": (1,)},
        max_shares={"fr": 0.5},
        max_norms={"fr": float(np.sqrt(10.0)) + 1e-6},
    )
    values = {**arrays(), "clip_share": np.array([share], np.float32)}
    assert admit_reply(REPLY, values, sender="fr", expected=counted, seen=frozenset()) is values


@pytest.mark.parametrize(("steps", "rate", "users"), [(1, 0.2, 3), (1, 0.2, 3000), (10, 0.01, 300), (4, 1.0, 50)])
def test_an_honest_share_stays_under_the_public_bound(steps: int, rate: float, users: int) -> None:
    """Worst honest partner: half again as many users as it states, all of them within the clip."""
    plan = config(sigma=1.0, steps=steps, rate=rate)
    expected = max(1.0, rate * users)
    counting = adaptive_clipping(plan.privacy, expected_users=expected)
    bound = public_share_bound(plan.model_copy(update={"privacy": counting}), users=users)
    draw, noise = np.random.default_rng(5), counting.clip_count_noise
    assert noise is not None
    worst = noise * 10.0 / np.sqrt(steps) / expected
    for _ in range(50):
        counts = draw.binomial(int(1.5 * users), rate, size=steps) / 2 + noise * draw.normal(size=steps)
        assert abs(counts.mean() / expected) <= bound
    assert bound <= 1.1 + worst + 20.0 / expected + 20.0 / np.sqrt(expected)
    with pytest.raises(PrivacyError, match="no share"):
        public_share_bound(plan, users=users)


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_honest_counts_stay_under_the_public_bound(sigma: float) -> None:
    plan = config(sigma=sigma, steps=1, rate=0.2)
    draw = np.random.default_rng(4)
    for users in (1, 100):
        cap = plan.privacy.popularity_cap
        counts = np.zeros(plan.features.items)
        counts[:cap] = 1.5 * users
        counts += sigma * np.sqrt(cap) * draw.normal(size=counts.size)
        bound = public_sum_bound(users=users, width=counts.size, bound=np.sqrt(cap), noise=sigma)
        assert np.linalg.norm(counts) <= bound
        assert bound < 10 * np.sqrt(cap) * (users + sigma * np.sqrt(counts.size) + 10)
