"""A dry run makes the very message that is sent later, costs what it costs, and a free one leaves nothing behind."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import numpy as np
import pytest
from safetensors.numpy import save_file

from client.dry_run import read_state, rehearse, rehearse_free
from client.release import answer
from client.site import Site
from mmrec_model.errors import PolicyRefusal, UsageError
from mmrec_model.protocol import Kind, Request, arrays_digest
from mmrec_model.snapshot_names import STATE, VELOCITY


def spent(site: Site) -> list[dict]:
    return site.inspect_ledger().history.spent()


def files(site: Site) -> dict[str, str]:
    paths = (path for path in site.root.rglob("*") if path.is_file())
    return {str(path.relative_to(site.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize(("kind", "release"), [(Kind.POPULARITY, "popularity"), (Kind.TRAIN, "train")])
def test_the_digest_is_that_of_the_later_message_which_costs_nothing_more(
    kind, release, make_site, make_request, config
):
    """Noise comes from the operating system: a second draw would be another one."""
    round_number = 1 if kind is Kind.TRAIN else 0
    site = make_site(seed=None)
    request, state = make_request(round_number)
    shown = rehearse(site, config, round_number, release, state)
    after = spent(site)
    assert len(after) == 1
    sent = answer(site, kind, request, state)
    assert sent.reply.refusal == ""
    assert arrays_digest(sent.arrays) == shown.digest
    assert [(array.name, array.shape) for array in shown.arrays] == [
        (name, array.shape) for name, array in sorted(sent.arrays.items())
    ]
    assert spent(site) == after


def test_a_dry_run_and_the_run_cost_exactly_what_the_run_costs(make_site, make_request, config):
    rehearsed, plain = make_site("a"), make_site("b")
    for number in (0, 1, 2):
        rehearse(rehearsed, config, number, "train" if number else "popularity", make_request(number)[1])
    for site in (rehearsed, plain):
        for kind, number in ((Kind.POPULARITY, 0), (Kind.TRAIN, 1), (Kind.TRAIN, 2), (Kind.TRAIN, 3)):
            assert answer(site, kind, *make_request(number)).reply.refusal == ""
    assert spent(rehearsed) == spent(plain)


def test_the_coordinator_gets_the_rehearsed_bytes_with_a_signed_request(federation, make_request, config):
    shown = rehearse(federation.site, config, 0, "popularity", {})
    federation.ask(Kind.DESCRIBE)
    assert arrays_digest(federation.ask(Kind.POPULARITY).arrays) == shown.digest
    assert len(spent(federation.site)) == 1


def test_a_dry_run_is_on_the_ledger_before_the_data_is_read(make_site, config, monkeypatch):
    def fail(*_arguments: object) -> None:
        raise KeyboardInterrupt

    site = make_site()
    monkeypatch.setitem(__import__("client.release").release.MAKERS, Kind.POPULARITY, fail)
    with pytest.raises(KeyboardInterrupt):
        rehearse(site, config, 0, "popularity", {})
    assert len(spent(site)) == 1


def test_nothing_is_committed_by_a_dry_run(make_site, config):
    site = make_site()
    rehearse(site, config, 0, "popularity", {})
    history = site.inspect_ledger().history
    assert len(history.dangling) == 1
    assert "commit" not in {record.type for record in history.records}


def test_the_same_dry_run_again_shows_the_same_and_costs_nothing(make_site, config):
    site = make_site(seed=None)
    first = rehearse(site, config, 0, "popularity", {})
    second = rehearse(site, config, 0, "popularity", {})
    assert second.digest == first.digest
    assert (second.spent, second.total) == (first.total, first.total)


def test_the_price_shown_is_what_the_ledger_then_says(make_site, config):
    from client.pricing import price_of_mechanisms

    site = make_site()
    shown = rehearse(site, config, 0, "popularity", {})
    assert (shown.spent, shown.total) == (0.0, price_of_mechanisms(spent(site), 1e-3))
    assert shown.total > 0.0


def test_a_round_that_comes_with_another_state_is_made_and_charged_anew(make_site, make_request, config):
    site = make_site(seed=None)
    request, state = make_request(1)
    shown = rehearse(site, config, 1, "train", state)
    state["prior"] = state["prior"] + 1.0
    other = Request(request.run_id, 1, request.plan, arrays_digest(state))
    sent = answer(site, Kind.TRAIN, other, state)
    assert sent.reply.refusal == ""
    assert arrays_digest(sent.arrays) != shown.digest
    assert len(spent(site)) == 2


def other_code(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.site.code_digest", lambda: "c" * 64)


def other_data(site: Site, _monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    (path,) = (site.root / "data").glob("interactions.*")
    table = pq.read_table(path)
    pq.write_table(table.slice(0, len(table) - 1), path)


@pytest.mark.parametrize("change", [other_code, other_data])
def test_a_reply_of_other_code_or_data_is_not_sent(change, make_site, make_request, config, monkeypatch):
    site = make_site(seed=None)
    shown = rehearse(site, config, 0, "popularity", {})
    change(site, monkeypatch)
    sent = answer(Site.open(site.root), Kind.POPULARITY, *make_request(0))
    assert sent.reply.refusal == ""
    assert arrays_digest(sent.arrays) != shown.digest
    assert len(spent(site)) == 2


def test_a_reply_that_was_sent_is_sent_again_whatever_changed(make_site, make_request, config, monkeypatch):
    site = make_site(seed=None)
    first = answer(site, Kind.POPULARITY, *make_request(0))
    other_data(site, monkeypatch)
    second = answer(Site.open(site.root), Kind.POPULARITY, *make_request(0))
    assert arrays_digest(second.arrays) == arrays_digest(first.arrays)
    assert len(spent(site)) == 1


def test_a_dry_run_of_another_run_keeps_the_replies_of_the_run_under_way(make_site, make_request, config):
    site = make_site(max_epsilon=50.0, seed=None)
    first = answer(site, Kind.TRAIN, *make_request(1))
    rehearse(site, config.model_copy(update={"run_id": "run-2"}), 0, "popularity", {})
    again = answer(site, Kind.TRAIN, *make_request(1))
    assert arrays_digest(again.arrays) == arrays_digest(first.arrays)
    assert len(spent(site)) == 2


def test_another_run_that_begins_keeps_the_rehearsed_reply(make_site, make_request, config):
    site = make_site(max_epsilon=50.0, seed=None)
    shown = rehearse(site, config, 0, "popularity", {})
    second = config.model_copy(update={"run_id": "run-2"})
    assert answer(site, Kind.DESCRIBE, *make_request(0, plan=second)).reply.refusal == ""
    assert arrays_digest(answer(site, Kind.POPULARITY, *make_request(0)).arrays) == shown.digest


@pytest.mark.parametrize(("round_number", "release"), [(0, "popularity"), (1, "train"), (3, "train")])
def test_a_free_dry_run_changes_no_file_and_shows_what_a_reply_looks_like(
    round_number, release, make_site, make_request, config
):
    site = make_site(seed=None)
    before = files(site)
    shown = rehearse_free(site, config, round_number, release, {})
    assert files(site) == before
    kind = Kind.TRAIN if round_number else Kind.POPULARITY
    sent = answer(site, kind, *make_request(round_number)).arrays
    assert {array.name: (array.shape, array.size) for array in shown.arrays} == {
        name: (array.shape, array.nbytes) for name, array in sent.items()
    }


@pytest.mark.parametrize("seed", [None, 1])
def test_the_digest_of_a_free_dry_run_is_of_no_later_message_even_of_a_seeded_site(
    seed, make_site, make_request, config
):
    site = make_site(seed=seed)
    request, state = make_request(1)
    free = [rehearse_free(site, config, 1, "train", state).digest for _ in range(2)]
    assert len({*free, arrays_digest(answer(site, Kind.TRAIN, request, state).arrays)}) == 3


def test_no_number_of_a_reply_is_shown(make_site, make_request, config):
    site = make_site()
    shown = rehearse(site, config, 1, "train", make_request(1)[1])
    kept = answer(site, Kind.TRAIN, *make_request(1)).arrays
    text = str(asdict(shown))
    values = {f"{value:.4f}" for array in kept.values() for value in np.ravel(array)[:50] if abs(value) > 0.01}
    assert values
    assert [value for value in values if value in text and value not in f"{shown.spent:.4f} {shown.total:.4f}"] == []


def test_a_charged_round_on_a_state_that_nobody_gave_is_refused_for_nothing(make_site, config):
    site = make_site()
    with pytest.raises(UsageError, match="--no-charge"):
        rehearse(site, config, 1, "train", {})
    assert spent(site) == []


def test_a_state_of_another_form_is_refused_for_nothing(make_site, make_request, config):
    site = make_site()
    state = make_request(1)[1]
    del state["prior"]
    with pytest.raises(UsageError, match="prior"):
        rehearse(site, config, 1, "train", state)
    assert spent(site) == []


@pytest.mark.parametrize(
    ("round_number", "release"), [(0, "train"), (4, "train"), (1, "popularity"), (0, "pairs"), (1, "x")]
)
def test_what_the_plan_does_not_release_is_refused(round_number, release, make_site, config):
    with pytest.raises(UsageError, match="releases no"):
        rehearse(make_site(), config, round_number, release, {})


def test_what_the_policy_refuses_is_refused_for_nothing(make_site, config):
    site = make_site(max_rounds=2)
    for made in (rehearse, rehearse_free):
        with pytest.raises(PolicyRefusal, match="rounds"):
            made(site, config, 0, "popularity", {})
    assert spent(site) == []


@pytest.mark.parametrize("release", ["pairs", "train", "compare"])
def test_a_free_dry_run_knows_every_release_of_a_ladder(release, make_site, ladder, scorer, make_ladder_request):
    site = make_site(max_epsilon=50.0)
    number = {"pairs": 0, "train": 1, "compare": ladder.training.rounds + 1}[release]
    shown = rehearse_free(site, ladder, number, release, {})
    kind = {"pairs": Kind.PAIRS, "train": Kind.TRAIN, "compare": Kind.COMPARE}[release]
    assert answer(site, Kind.SCORER, *make_ladder_request(Kind.SCORER)).reply.refusal == ""
    sent = answer(site, kind, *make_ladder_request(kind))
    assert sent.reply.refusal == ""
    assert {array.name: array.shape for array in shown.arrays} == {n: a.shape for n, a in sent.arrays.items()}


def test_a_rehearsed_round_of_a_ladder_uses_the_scorer_that_was_sent(make_site, ladder, make_ladder_request):
    site = make_site(max_epsilon=50.0, seed=None)
    request, state = make_ladder_request(Kind.TRAIN)
    with pytest.raises(UsageError):
        rehearse(site, ladder, 1, "train", state)
    answer(site, Kind.SCORER, *make_ladder_request(Kind.SCORER))
    shown = rehearse(site, ladder, 1, "train", state)
    assert arrays_digest(answer(site, Kind.TRAIN, request, state).arrays) == shown.digest


def test_a_snapshot_is_read_as_it_travels(tmp_path, make_request):
    state = make_request(1)[1]
    named = {(name if name == "prior" else STATE + name): array for name, array in state.items()}
    velocity = {VELOCITY + name: array for name, array in state.items() if name != "prior"}
    save_file({**named, **velocity}, tmp_path / "00000.safetensors")
    assert arrays_digest(read_state(tmp_path / "00000.safetensors")) == arrays_digest(state)
    (tmp_path / "broken").write_bytes(b"no arrays")
    with pytest.raises(UsageError):
        read_state(tmp_path / "broken")
