"""A dry run against the real coordinator and the real partner app over the loopback grid."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Context, Message

from client.app import app as client_app
from client.dry_run import read_state, rehearse
from client.messages import ARRAYS
from client.site import Site
from mmrec_model.errors import MmrecError
from mmrec_model.model.recommender import initial_state
from mmrec_model.protocol import Kind, arrays_digest
from mmrec_model.wire_arrays import read_npy
from server.app import coordinate
from simulations.loopback import LoopbackGrid
from simulations.small_site import SmallSites, make_small_sites


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallSites:
    return make_small_sites(tmp_path_factory.mktemp("small"))


@pytest.fixture
def workspace(small: SmallSites, tmp_path: Path) -> Path:
    shutil.copy(small.plan, tmp_path / "plan.json")
    return tmp_path


def without_training(message: Message, context: Context) -> Message:
    if message.metadata.message_type == Kind.TRAIN:
        raise RuntimeError("the partner is down")
    return client_app(message, context)


def run(workspace: Path, root: Path, partner=client_app) -> dict[tuple[str, str], str]:
    """Digests of the arrays that the network saw, by kind and group."""
    seen: dict[tuple[str, str], str] = {}

    def note(request: Message, reply: Message) -> Iterable[Message]:
        if not reply.has_error():
            record = reply.content.array_records[ARRAYS]
            arrays = {name: read_npy(name, array.stype, array.data) for name, array in record.items()}
            if arrays:
                seen[request.metadata.message_type, request.metadata.group_id] = arrays_digest(arrays)
        return [reply]

    grid = LoopbackGrid(partner, [root], {"workspace": str(workspace)}, channel=note)
    coordinate(grid, workspace, initial_state)
    return seen


def test_what_was_rehearsed_is_what_the_coordinator_gets_and_the_run_costs_nothing_more(
    small: SmallSites, workspace: Path
) -> None:
    """Popularity before the run; round 1 from the coordinator's snapshot, in a run that stopped before it."""
    root, coordinator = small.copy_with_coordinator("rehearsed")
    shutil.copytree(coordinator, workspace / "coordinator")
    site = Site.open(root)
    counts = rehearse(site, small.config, 0, "popularity", {})
    with pytest.raises(MmrecError):
        run(workspace, root, without_training)
    snapshot = workspace / "coordinator" / "rounds" / "00000.safetensors"
    update = rehearse(site, small.config, 1, "train", read_state(snapshot))
    seen = run(workspace, root)
    digests = list(seen.values())
    assert update.digest in digests
    history = Site.open(root).inspect_ledger().history
    committed = [record.text("update_digest") for record in history.records if record.type == "commit"]
    assert committed[:2] == [counts.digest, update.digest]
    assert len(history.spent()) == 1 + small.config.training.rounds
    assert not history.dangling
