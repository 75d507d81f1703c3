"""A snapshot is whole or passed over, and what is read back is what was written, bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mmrec_model.errors import ModelError
from mmrec_model.protocol import KEPT_TERMS, SCORER, SELECTED, arrays_digest
from server.checkpoint import PRIOR, CheckpointStore, Snapshot, export_state


def snapshot(round_: int) -> Snapshot:
    draw = np.random.default_rng(round_)
    state = {"a": draw.normal(size=(2, 3)).astype(np.float32), "b.c": draw.normal(size=4).astype(np.float32)}
    velocity = {name: draw.normal(size=array.shape).astype(np.float32) for name, array in state.items()}
    return Snapshot(round_, state, draw.normal(size=5).astype(np.float32), velocity, {"be": 10, "fr": 20})


def store(folder: Path, rounds: int = 3) -> CheckpointStore:
    store = CheckpointStore(folder / "rounds", "plan")
    for round_ in range(rounds):
        store.save(snapshot(round_), {"seconds": 1.0})
    return store


def same(one: Snapshot | None, two: Snapshot) -> bool:
    assert one is not None
    pairs = [(one.state, two.state), (one.velocity, two.velocity), ({"": one.prior}, {"": two.prior})]
    equal = all(
        left.keys() == right.keys() and all(left[name].tobytes() == right[name].tobytes() for name in left)
        for left, right in pairs
    )
    return equal and (one.round, one.partners, one.digest) == (two.round, two.partners, two.digest)


def test_the_newest_snapshot_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    fresh = store(tmp_path)
    assert same(fresh.newest(), snapshot(2))
    assert fresh.damaged == []


def test_an_empty_folder_has_no_snapshot(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "nothing", "plan").newest() is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_truncation_or_changed_byte_falls_back_to_the_snapshot_before(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    fresh = store(tmp_path_factory.mktemp("damage"))
    victim = fresh.path(2)
    content = bytearray(victim.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    victim.write_bytes(content)
    assert same(fresh.newest(), snapshot(1))
    assert len(fresh.damaged) == 1
    assert "00002" in fresh.damaged[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_a_torn_sidecar_falls_back_too(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    fresh = store(tmp_path_factory.mktemp("torn"))
    sidecar = fresh.path(2).with_suffix(".json")
    content = sidecar.read_bytes()
    sidecar.write_bytes(content[: cut % len(content)])
    assert same(fresh.newest(), snapshot(1))


@pytest.mark.parametrize("sidecar", ["[]", "null", "{}", '"x"', '{"plan_digest": "plan", "sha256": 5, "round": "x"}'])
def test_a_sidecar_that_says_something_else_falls_back(tmp_path: Path, sidecar: str) -> None:
    fresh = store(tmp_path)
    fresh.path(2).with_suffix(".json").write_text(sidecar)
    assert same(fresh.newest(), snapshot(1))


def test_a_snapshot_without_its_sidecar_does_not_exist_yet(tmp_path: Path) -> None:
    fresh = store(tmp_path)
    fresh.path(2).with_suffix(".json").unlink()
    assert same(fresh.newest(), snapshot(1))
    assert fresh.damaged == []


def test_a_sidecar_without_its_snapshot_falls_back(tmp_path: Path) -> None:
    fresh = store(tmp_path)
    fresh.path(2).unlink()
    assert same(fresh.newest(), snapshot(1))


def test_a_pickle_in_place_of_a_snapshot_is_never_run(tmp_path: Path) -> None:
    fresh = store(tmp_path)
    mark = tmp_path / "executed"
    content = b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    fresh.path(2).write_bytes(content)
    sidecar = fresh.path(2).with_suffix(".json")
    facts = json.loads(sidecar.read_text())
    import hashlib

    sidecar.write_text(json.dumps({**facts, "sha256": hashlib.sha256(content).hexdigest()}))
    assert same(fresh.newest(), snapshot(1))
    assert not mark.exists()


def test_another_plan_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    store(tmp_path)
    with pytest.raises(ModelError, match="new workspace"):
        CheckpointStore(tmp_path / "rounds", "other plan").newest()


def test_the_export_holds_the_plain_names_and_whose_they_are(tmp_path: Path) -> None:
    path = tmp_path / "final.safetensors"
    export_state(path, snapshot(7), {}, run_id="run", plan_digest="plan")
    arrays = load_file(path)
    assert set(arrays) == {"a", "b.c", PRIOR}
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["run"])
    assert facts == {"run_id": "run", "plan_digest": "plan", "round": 7, "model_digest": snapshot(7).digest}


def test_the_export_holds_the_scorer_and_what_the_gate_kept(tmp_path: Path) -> None:
    path = tmp_path / "final.safetensors"
    kept = np.array([1, 0, 1], np.float32)
    scorer = {SCORER: np.eye(2, dtype=np.float32), SELECTED: np.array([1, 3], np.float32)}
    gated = replace(snapshot(7), scorer=arrays_digest(scorer), kept_terms=kept)
    export_state(path, gated, scorer, run_id="run", plan_digest="plan")
    arrays = load_file(path)
    assert set(arrays) == {"a", "b.c", PRIOR, SCORER, SELECTED, KEPT_TERMS}
    assert arrays[KEPT_TERMS].tolist() == [1, 0, 1]


def test_the_scorer_and_the_kept_terms_are_part_of_the_models_identity(tmp_path: Path) -> None:
    base = snapshot(1)
    with_scorer = replace(base, scorer="a" * 64)
    digests = {one.digest for one in (base, with_scorer, replace(base, scorer="b" * 64))}
    digests.add(replace(base, kept_terms=np.ones(3, np.float32)).digest)
    assert len(digests) == 4
    kept = CheckpointStore(tmp_path / "rounds", "plan")
    kept.save(with_scorer, {})
    found = kept.newest()
    assert found is not None
    assert (found.scorer, found.digest) == (with_scorer.scorer, with_scorer.digest)


def test_the_model_digest_depends_on_the_prior_and_not_on_the_velocity() -> None:
    base = snapshot(1)
    other = snapshot(2)
    assert Snapshot(1, base.state, other.prior, base.velocity, {}).digest != base.digest
    assert Snapshot(1, base.state, base.prior, other.velocity, {}).digest == base.digest


def test_the_export_averages_the_states_of_the_last_rounds_and_nothing_else(tmp_path: Path) -> None:
    kept = store(tmp_path, 5)
    last = snapshot(4)
    averaged = kept.averaged(last, 0.5)
    for name, array in averaged.state.items():
        np.testing.assert_allclose(array, (snapshot(3).state[name] + last.state[name]) / 2, rtol=1e-6)
    assert averaged.prior is last.prior
    assert averaged.velocity is last.velocity


def test_no_share_exports_the_last_state_as_it_is(tmp_path: Path) -> None:
    assert same(store(tmp_path, 5).averaged(snapshot(4), 0.0), snapshot(4))


def test_a_damaged_snapshot_is_left_out_of_the_average_and_named(tmp_path: Path) -> None:
    kept = store(tmp_path, 5)
    kept.path(3).write_bytes(b"torn")
    averaged = kept.averaged(snapshot(4), 0.5)
    assert same(averaged, snapshot(4))
    assert set(kept.left_out) == {3}
    assert "cannot be read" in kept.left_out[3]
    assert kept.damaged == []
