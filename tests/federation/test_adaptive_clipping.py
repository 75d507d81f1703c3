"""A whole federation with adaptive clipping: the clip moves, is charged as it was used, and survives a crash."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, Message

from client.app import app as client_app
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.model.recommender import initial_state
from mmrec_model.planning import adaptive_clipping
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.clipping import clip_bounds, next_clip
from mmrec_model.protocol import ARRAYS, CLIP, CLIP_SHARE, Kind
from server.app import coordinate
from server.checkpoint import CheckpointStore, Snapshot
from server.journal import read_journal
from simulations.loopback import Channel, LoopbackGrid
from simulations.small_site import SmallSites, make_small_sites

ROUNDS = 4
Clips = list[tuple[int, float]]


class PowerCut(BaseException):
    """Ends the coordinator like a kill: nothing catches it."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallSites:
    return make_small_sites(tmp_path_factory.mktemp("small"))


def make_run(small: SmallSites, name: str, folder: Path) -> tuple[RunConfig, Site, Path]:
    """A plan of four rounds, a partner, and the coordinator's workspace."""
    site, coordinator = small.copy_with_coordinator(name)
    privacy = adaptive_clipping(small.config.privacy, expected_users=9.0)
    privacy = privacy.model_copy(update={"max_grad_norm": 0.5, "clip_learning_rate": 1.0})
    training = small.config.training.model_copy(update={"rounds": ROUNDS})
    config = small.config.model_copy(update={"privacy": privacy, "training": training})
    workspace = folder / name
    shutil.copytree(coordinator, workspace / "coordinator")
    (workspace / "plan.json").write_text(config.model_dump_json())
    return config, Site.open(site), workspace


def train(site: Site, workspace: Path, channel: Channel | None = None) -> Snapshot:
    grid = LoopbackGrid(client_app, [site.root], {"workspace": str(workspace)}, channel=channel)
    return coordinate(grid, workspace, initial_state)


def listening(clips: Clips, shares: list[float], *, cut_at: int | None = None) -> Channel:
    """A network that notes the clip of each request and the share of each reply, and can fail after a reply."""

    def channel(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == Kind.TRAIN:
            round_ = int(request.metadata.group_id)
            clips.append((round_, float(request.content.array_records[ARRAYS][CLIP].numpy()[0])))
            shares.append(float(reply.content.array_records[ARRAYS][CLIP_SHARE].numpy()[0]))
            if round_ == cut_at:
                raise PowerCut
        return [reply]

    return channel


def charged(site: Site) -> list[float]:
    with site.open_ledger() as ledger:
        training = [record for record in ledger.records if record.type == RecordType.RESERVE and record.whole("round")]
        hashes = [record.hash for record in training]
        commits = [record for record in ledger.records if record.body.get("reserve") in hashes]
        assert ledger.dangling() == []
    used = [record.number("sensitivity") for record in training]
    assert used == [record.number("sensitivity") for record in commits]
    return used


def test_the_clip_follows_the_released_shares_and_every_round_is_charged_with_its_own(
    small: SmallSites, tmp_path: Path
) -> None:
    config, site, workspace = make_run(small, "whole", tmp_path)
    clips: Clips = []
    shares: list[float] = []
    final = train(site, workspace, listening(clips, shares))
    assert (final.round, final.clip) == (ROUNDS, None)
    low, high = clip_bounds(config.privacy)
    expected = np.array([0.5], np.float32)
    for (_, clip), share in zip(clips, shares, strict=True):
        assert clip == float(expected[0])
        assert low <= clip <= high
        expected = next_clip(config.privacy, expected, share)
    assert len({clip for _, clip in clips}) == ROUNDS
    assert charged(site) == [clip for _, clip in clips]
    store = CheckpointStore(workspace / "coordinator" / "rounds", config.digest)
    last = store.newest()
    assert last is not None
    assert last.clip is not None
    assert last.clip.tobytes() == expected.tobytes()


@pytest.mark.parametrize("cut_at", [1, 3])
def test_after_a_crash_the_round_comes_again_with_the_same_clip_and_costs_nothing_more(
    cut_at: int, small: SmallSites, tmp_path: Path
) -> None:
    _, site, workspace = make_run(small, f"cut-{cut_at}", tmp_path)
    clips: Clips = []
    shares: list[float] = []
    with pytest.raises(PowerCut):
        train(site, workspace, listening(clips, shares, cut_at=cut_at))
    train(site, workspace, listening(clips, shares))
    assert [round_ for round_, _ in clips] == [*range(1, cut_at + 1), *range(cut_at, ROUNDS + 1)]
    assert clips[cut_at] == clips[cut_at - 1]
    assert shares[cut_at] == shares[cut_at - 1], "the stored reply, not a second draw"
    assert charged(site) == [clip for place, (_, clip) in enumerate(clips) if place != cut_at]


@pytest.mark.parametrize("share", [50.0, -50.0])
def test_a_share_that_no_honest_partner_has_moves_nothing(share: float, small: SmallSites, tmp_path: Path) -> None:
    _, site, workspace = make_run(small, f"loud{'-low' if share < 0 else ''}", tmp_path)

    def lie(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == Kind.TRAIN:
            reply.content.array_records[ARRAYS][CLIP_SHARE] = Array(np.array([share], np.float32))
        return [reply]

    with pytest.raises(Exception, match="clip_share 1"):
        train(site, workspace, lie)
    assert [event["event"] for event in read_journal(workspace / "coordinator" / "run.jsonl")][-1] == "failed"
