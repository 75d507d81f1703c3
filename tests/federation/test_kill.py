"""kill -9 at random moments of real client processes: nothing that left is uncharged, nothing that was seen is lost.

docs/crashes.md says what is guaranteed, and how to run 1,000 trials.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client import outbox
from client.charge import RELEASES
from client.release import answer
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.config_ladder import CollaborationConfig, GateConfig
from mmrec_model.model.recommender import initial_state
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.protocol import SCORER, SELECTED, Arrays, Kind, Request, arrays_digest, state_digest
from simulations.kill_trials import COSTLY, POINTS, SEVERAL, KillTable, Order, fork_server, live, run_trials, trial_of
from simulations.kill_verdict import Verdict, judge, replies_seen
from simulations.small_site import SmallSites, make_small_sites

TRIALS = 200


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> KillTable:
    """What the trials of the suite came to."""
    return run_trials(TRIALS, seed=11, folder=tmp_path_factory.mktemp("kills"))


def test_after_kill_9_spent_covers_released_and_no_reply_that_was_seen_is_lost(table: KillTable) -> None:
    assert table.problems == [], table.as_text()
    total = table.total
    assert (total.trials, total.under_counted, total.lost) == (TRIALS, 0, 0)


def test_the_kills_reached_every_point_and_random_moments_too(table: KillTable) -> None:
    assert set(POINTS) <= set(table.rows), table.as_text()
    at_random = [row.trials for name, row in table.rows.items() if name.startswith("at random")]
    assert sum(at_random) >= TRIALS // 10
    assert table.rows[SEVERAL].trials >= 5


def test_a_kill_costs_budget_only_between_the_reserve_and_the_kept_reply(table: KillTable) -> None:
    for point in POINTS:
        row = table.rows[point]
        assert row.over_counted == (row.trials if point in COSTLY else 0), f"{point}\n{table.as_text()}"


def test_every_torn_line_is_kept_aside_and_recorded(table: KillTable) -> None:
    for point in POINTS:
        row = table.rows[point]
        assert row.recovered == (row.trials if point.endswith("torn") else 0), f"{point}\n{table.as_text()}"


def test_kills_that_eat_the_budget_end_in_a_refusal_not_in_a_release(table: KillTable) -> None:
    assert table.refused >= 1


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallSites, Path]:
    """A site that was killed while it drew noise and has finished since, and what the network saw."""
    sites = make_small_sites(tmp_path_factory.mktemp("ended"))
    with fork_server(sites.plan, sites.copy("warm-up")) as server:
        live(server, trial_of(sites, "killed"), [Order(point="noise being drawn", nth=9)])
        server.run(replace(trial_of(sites, "mutant"), mutant=True))
    return sites, sites.folder


def judged(ended: tuple[SmallSites, Path], name: str, seen: str | None = None) -> Verdict:
    sites, folder = ended
    path = folder / f"{name}.seen"
    if seen is not None:
        path = folder / f"{name}.doctored"
        path.write_text(seen)
    return judge(folder / "sites" / name, path, sites.config)


def test_the_judge_finds_nothing_in_an_honest_trial(ended: tuple[SmallSites, Path]) -> None:
    verdict = judged(ended, "killed")
    assert (verdict.problems, verdict.dangling, verdict.recovered, verdict.refused) == ([], 1, 0, False)


def test_the_judge_finds_a_client_that_sends_what_it_has_not_committed(ended: tuple[SmallSites, Path]) -> None:
    assert len(judged(ended, "mutant").under_counted) == 4


def test_the_judge_finds_a_reply_that_no_reserve_covers(ended: tuple[SmallSites, Path]) -> None:
    seen = (ended[1] / "killed.seen").read_text() + f"2 {'0' * 64}\n"
    verdict = judged(ended, "killed", seen)
    assert verdict.under_counted
    assert verdict.lost


def test_the_judge_finds_a_reply_that_was_refused_after_it_had_been_sent(ended: tuple[SmallSites, Path]) -> None:
    seen = (ended[1] / "killed.seen").read_text() + "1 refused budget\n"
    assert judged(ended, "killed", seen).lost


def test_the_judge_finds_a_stored_reply_without_a_reserve(ended: tuple[SmallSites, Path]) -> None:
    folder = ended[1] / "sites" / "killed" / "outbox"
    copy = folder / f"{'1' * 64}.safetensors"
    copy.write_bytes(next(folder.glob("*.safetensors")).read_bytes())
    try:
        assert judged(ended, "killed").under_counted
    finally:
        copy.unlink()


def test_the_judge_finds_a_reply_that_was_thrown_away(ended: tuple[SmallSites, Path]) -> None:
    kept = next((ended[1] / "sites" / "killed" / "outbox").glob("*.safetensors"))
    aside = kept.rename(kept.with_suffix(".aside"))
    try:
        assert judged(ended, "killed").lost
    finally:
        aside.rename(kept)


def test_what_the_network_saw_is_read_back_by_round(tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("0 ab\n1 refused budget\n0 ab\n")
    assert replies_seen(tmp_path / "seen") == {0: ["ab", "ab"], 1: ["refused budget"]}


class Killed(BaseException):
    """Stands for SIGKILL where the test goes on in the same process."""


def killed_while(name: str, site: Site, asked: tuple[Kind, Request, Arrays], monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr({"keep": outbox, "commit": Ledger}[name], name, die)
        with pytest.raises(Killed):
            answer(site, *asked)


def popularity(sites: SmallSites) -> tuple[Kind, Request, Arrays]:
    return Kind.POPULARITY, Request(sites.config.run_id, 0, sites.config.model_dump_json()), {}


def laddered(sites: SmallSites) -> RunConfig:
    """The plan of the small sites with pairs and a gate."""
    parts = {
        "model": sites.config.model.model_copy(update={"collaboration_weight": 0.3}),
        "collaboration": CollaborationConfig(items=6, noise_multiplier=5.0),
        "gate": GateConfig(metric="mrr", noise_multiplier=5.0),
    }
    return sites.config.model_copy(update=parts)


def ladder_request(config: RunConfig, kind: Kind) -> tuple[Kind, Request, Arrays]:
    """PAIRS, or COMPARE of the untrained state with a scorer that the site has."""
    plan, selected = config.model_dump_json(), {SELECTED: np.arange(6, dtype=np.float32)}
    scorer = selected | {SCORER: np.ones((6, 6), np.float32)}
    if kind is not Kind.COMPARE:
        arrays = selected if kind is Kind.PAIRS else scorer
        return kind, Request(config.run_id, 0, plan, arrays_digest(arrays)), arrays
    state = initial_state(config) | {"prior": np.linspace(0, 1, config.features.items).astype(np.float32)}
    named = arrays_digest(scorer)
    return kind, Request(config.run_id, config.training.rounds + 1, plan, state_digest(state, named), named), state


def attempts(site: Site, kind: str) -> list[int]:
    with site.open_ledger() as ledger:
        return [one.whole("attempt") for one in ledger.records if one.body.get("kind") == kind]


@pytest.mark.parametrize("kind", [Kind.PAIRS, Kind.COMPARE])
@pytest.mark.parametrize(("where", "charges"), [("keep", 2), ("commit", 1)])
def test_a_kill_between_the_steps_of_pairs_or_comparison_loses_no_reply_that_was_kept_and_charges_no_second_time(
    kind: Kind, where: str, charges: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reserve and kept reply an attempt is lost and stays spent; after it the same bytes leave for nothing."""
    sites = make_small_sites(tmp_path)
    config, root = laddered(sites), sites.copy("site")
    site = Site.open(root)
    assert answer(site, *ladder_request(config, Kind.SCORER)).reply.refusal == ""
    asked = ladder_request(config, kind)
    killed_while(where, site, asked, monkeypatch)
    kept = [path.read_bytes() for path in site.outbox.glob("*.safetensors")]
    assert len(kept) == charges % 2
    first = answer(Site.open(root), *asked)
    again = answer(Site.open(root), *asked)
    assert first.reply.refusal == again.reply.refusal == ""
    assert arrays_digest(first.arrays) == arrays_digest(again.arrays)
    (name,) = first.arrays
    assert all(first.arrays[name].tobytes() in content for content in kept), "what was kept before the kill is sent"
    assert attempts(site, RELEASES[kind]) == list(range(charges))
    with Site.open(root).open_ledger() as ledger:
        assert len(ledger.dangling()) == charges - 1
        assert len(ledger.spent()) == charges


def test_the_next_start_tells_the_operator_what_the_crash_has_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sites = make_small_sites(tmp_path)
    site = Site.open(sites.copy("site"))
    killed_while("keep", site, popularity(sites), monkeypatch)
    with caplog.at_level(logging.WARNING):
        answer(site, *popularity(sites))
    assert any("attempt 0" in line and "stays spent" in line for line in caplog.messages), caplog.messages


def damage_stored_reply(site: Site) -> None:
    """Flip one bit of a weight; the file stays well-formed."""
    (kept,) = site.outbox.glob("*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(bytes(content))


def test_a_stored_reply_that_was_damaged_after_its_commit_is_not_sent(tmp_path: Path) -> None:
    sites = make_small_sites(tmp_path)
    site = Site.open(sites.copy("site"))
    assert answer(site, *popularity(sites)).reply.refusal == ""
    damage_stored_reply(site)
    again = answer(site, *popularity(sites))
    assert (again.reply.refusal, again.arrays) == ("site", {})


def test_a_reply_that_was_damaged_before_its_commit_is_neither_committed_nor_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = make_small_sites(tmp_path)
    site = Site.open(sites.copy("site"))
    killed_while("commit", site, popularity(sites), monkeypatch)
    damage_stored_reply(site)
    assert answer(site, *popularity(sites)).reply.refusal == "site"
    with site.open_ledger() as ledger:
        assert len(ledger.dangling()) == len(ledger.spent()) == 1
