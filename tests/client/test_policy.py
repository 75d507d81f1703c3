"""A policy compares and refuses; it never changes a run."""

from __future__ import annotations

import pytest

from client.policy import Policy, check_release, check_run, read_policy
from mmrec_model.config import RunConfig
from mmrec_model.errors import ConfigError, PolicyRefusal


def check(policy: Policy, config: RunConfig, **facts: object) -> None:
    given = {
        "users": 60,
        "installed_features": config.features.digest,
        "installed_code": "d" * 64,
        "trained_weights": 100,
        **facts,
    }
    check_run(policy, config, **given)


def test_a_run_within_the_limits_is_accepted(config):
    check(Policy(max_delta=1e-3), config)


@pytest.mark.parametrize(
    ("code", "limit"),
    [
        ("delta", {"max_delta": 1e-4}),
        ("rounds", {"max_rounds": 2}),
        ("steps", {"max_steps": 5}),
        ("clip", {"max_grad_norm": 0.5}),
        ("sample-rate", {"max_sample_rate": 0.2}),
        ("history", {"max_history": 3}),
        ("popularity-cap", {"max_history": 19}),
        ("trained-weights", {"max_trained_weights": 99}),
        ("users", {"minimum_users": 61}),
        ("cohort", {"minimum_cohort": 2}),
        ("features", {"allowed_features": ("f" * 64,)}),
        ("code", {"allowed_code": ("c" * 64,)}),
    ],
)
def test_each_limit_refuses_by_its_own_code(code, limit, config):
    with pytest.raises(PolicyRefusal) as caught:
        check(Policy(**{"max_delta": 1e-3, **limit}), config)
    assert caught.value.code == code


def test_a_limit_itself_is_allowed(config):
    limits = {"max_rounds": 3, "max_steps": 6, "max_grad_norm": 1.0, "max_sample_rate": 0.3, "max_history": 20}
    check(Policy(max_delta=1e-3, minimum_users=60, max_trained_weights=100, **limits), config)


def test_a_bundle_that_is_not_installed_is_refused(config):
    with pytest.raises(PolicyRefusal, match="features"):
        check(Policy(max_delta=1e-3), config, installed_features="e" * 64)


@pytest.mark.parametrize("allowed", [("*",), ("c" * 64, "d" * 64)])
def test_code_that_is_listed_may_run(allowed, config):
    check(Policy(max_delta=1e-3, allowed_code=allowed), config)


@pytest.mark.parametrize("allowed", [(), ("d" * 63,), ("D" * 64,)])
def test_code_that_is_not_listed_in_full_is_refused(allowed, config):
    with pytest.raises(PolicyRefusal, match="allowed_code"):
        check(Policy(max_delta=1e-3, allowed_code=allowed), config)


def test_delta_must_stay_below_one_in_the_number_of_users(config):
    with pytest.raises(PolicyRefusal, match="delta-users"):
        check(Policy(max_delta=1e-3), config, users=1000)


def test_what_is_not_allowed_to_leave_is_refused():
    check_release(Policy(), "train")
    with pytest.raises(PolicyRefusal, match="popularity"):
        check_release(Policy(allowed_releases=("train",)), "popularity")


@pytest.mark.parametrize("text", ["max_epsilon = 'much'", "unknown = 1", "max_epsilon = -1.0", "= ="])
def test_a_bad_policy_file_is_refused_with_its_name(text, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"policy\.toml"):
        read_policy(path)


def test_a_policy_file_is_read(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text('max_epsilon = 2.5\nallowed_releases = ["train"]\n')
    assert read_policy(path) == Policy(max_epsilon=2.5, allowed_releases=("train",))
