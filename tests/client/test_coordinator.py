"""Partner and coordinator keep each other's last word: a ledger that was rolled back, cloned or replayed is refused.

Both sides are the real ones: `client.release.answer` over a real site folder, and `server.sites.Sites`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.app import app as client_app
from client.coordinator import Challenge, show
from client.release import answer
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.errors import AdmissionError, BundleSignatureError, ConfigError, MmrecError
from mmrec_model.features.folder import SIGNATURE
from mmrec_model.features.signature import sign_bundle
from mmrec_model.model.recommender import initial_state
from mmrec_model.privacy.fork import ForkProof
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.protocol import REQUEST_DOMAIN, Arrays, Kind, Reply, Request, request_statement
from server.app import coordinate
from server.journal import read_journal
from server.sites import coordinator_key, read_partners, write_partners
from simulations.loopback import LoopbackGrid

Federation = Any  # the fixture of conftest.py
LEDGER = ("ledger.jsonl", "ledger.head")


def types(site: Site) -> list[str]:
    with site.open_ledger() as ledger:
        return [record.type for record in ledger.records]


def keep(site: Site, folder: Path) -> Path:
    folder.mkdir()
    for name in LEDGER:
        shutil.copy(site.root / name, folder / name)
    return folder


def restore(site: Site, folder: Path) -> None:
    for name in LEDGER:
        shutil.copy(folder / name, site.root / name)


def refused(federation: Federation, reply: Reply) -> str:
    with pytest.raises(AdmissionError) as error:
        federation.admit(reply)
    return str(error.value.reason)


def test_the_plan_is_countersigned_before_the_first_reserve_and_every_head_after_it(federation: Federation) -> None:
    federation.start(2)
    spend = ["countersign", "reserve", "commit"]
    prepared = ["countersign", "data_prep", "reserve", "commit"]
    assert types(federation.site) == ["open", "code", "data_prep", "plan", *spend, *prepared, *spend]
    with federation.site.open_ledger() as ledger:
        signed = [record for record in ledger.records if record.type == "countersign"]
        assert [record.whole("size") for record in signed] == [4, 7, 11]
        reserves = [record for record in ledger.records if record.type == "reserve"]
        assert len({record.text("server_nonce") for record in reserves}) == 3
    books = json.loads((federation.folder / "heads.json").read_text())
    assert books["partners"]["north"]["shown"]["size"] == 14


def test_a_site_that_names_no_coordinator_shows_no_signed_head(
    make_site: Callable[..., Site], make_request: Callable[..., tuple[Request, Arrays]]
) -> None:
    reply = answer(make_site(), Kind.DESCRIBE, *make_request(0)).reply
    assert (reply.refusal, reply.head, reply.growth) == ("", "", "")


@pytest.mark.parametrize("kind", [Kind.DESCRIBE, Kind.TRAIN])
def test_a_ledger_rolled_back_with_its_head_file_is_refused_by_the_partner(
    kind: Kind, federation: Federation, tmp_path: Path
) -> None:
    federation.start(1)
    old = keep(federation.site, tmp_path / "backup")
    federation.ask(Kind.TRAIN, 2)
    restore(federation.site, old)
    before = (federation.site.root / "ledger.jsonl").read_bytes()
    reply = federation.ask(kind, 3 if kind is Kind.TRAIN else 0).reply
    assert reply.refusal == "rollback"
    assert (federation.site.root / "ledger.jsonl").read_bytes() == before, "nothing was spent or written"


def test_a_ledger_without_its_last_records_is_refused_by_its_own_head_file(federation: Federation) -> None:
    federation.start(1)
    ledger = federation.site.root / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-2]))
    assert federation.ask(Kind.TRAIN, 2).reply.refusal == "rollback"


def test_a_rolled_back_partner_that_answers_all_the_same_is_refused_by_the_coordinator(
    federation: Federation, tmp_path: Path
) -> None:
    federation.start(1)
    old = keep(federation.site, tmp_path / "backup")
    honest = federation.ask(Kind.TRAIN, 2)
    restore(federation.site, old)
    request, _ = federation.request(Kind.TRAIN, 3)
    with federation.site.open_ledger() as ledger:
        shown = show(ledger, Challenge(request.nonce, 0))
    forged = replace(honest.reply, round=3, ledger_head=shown.ledger_head, head=shown.head, growth=shown.growth)
    assert refused(federation, forged) == "rollback"


def test_a_clone_that_answers_the_same_message_leaves_a_proof_of_the_fork(
    federation: Federation, tmp_path: Path
) -> None:
    federation.start(1)
    clone = Site.open(Path(shutil.copytree(federation.site.root, federation.site.root.with_name("clone"))))
    asked = federation.request(Kind.TRAIN, 2)
    first, second = (answer(site, Kind.TRAIN, *asked).reply for site in (federation.site, clone))
    federation.admit(first)
    assert refused(federation, second) == "fork"
    (file,) = (federation.folder / "forks").glob("*.json")
    found = json.loads(file.read_text())
    assert ForkProof.from_json(found["proof"]).verifies(PublicKey(federation.site.public_key))
    with pytest.raises(AdmissionError, match="two different heads"):
        federation.request(Kind.TRAIN, 3)
    assert federation.ask(Kind.DESCRIBE).reply.refusal == "nonce", "no challenge while the fork is open"


def test_a_clone_that_was_continued_elsewhere_is_refused_by_the_partner_itself(federation: Federation) -> None:
    federation.start(1)
    original = federation.site
    clone = Site.open(Path(shutil.copytree(original.root, original.root.with_name("clone"))))
    federation.site = clone
    asked = federation.request(Kind.TRAIN, 2)
    assert answer(clone, Kind.TRAIN, *asked).reply.refusal == ""
    federation.site = original
    federation.ask(Kind.TRAIN, 2)
    federation.site = clone
    assert federation.ask(Kind.TRAIN, 3).reply.refusal == "fork"


def test_a_reply_of_a_former_round_is_a_replay_to_the_coordinator(federation: Federation) -> None:
    federation.start(1)
    old = federation.ask(Kind.TRAIN, 2).reply
    federation.ask(Kind.TRAIN, 3)
    assert refused(federation, old) == "nonce"
    federation.request(Kind.TRAIN, 3)
    assert refused(federation, replace(old, round=3)) == "nonce"


def test_a_request_of_a_former_round_is_a_replay_to_the_partner(federation: Federation) -> None:
    federation.start(0)
    old = federation.request(Kind.TRAIN, 1)
    federation.admit(answer(federation.site, Kind.TRAIN, *old).reply)
    federation.ask(Kind.TRAIN, 2)
    before = types(federation.site)
    result = answer(federation.site, Kind.TRAIN, *old)
    assert (result.reply.refusal, result.arrays) == ("nonce", {})
    assert types(federation.site) == before


def test_one_nonce_does_not_serve_two_rounds(federation: Federation) -> None:
    federation.start(0)
    (first, _), (second, arrays) = federation.request(Kind.TRAIN, 1), federation.request(Kind.TRAIN, 2)
    key = SigningKey.load(federation.folder / "key.pem")
    answer(federation.site, Kind.TRAIN, first, arrays)
    reused = replace(second, nonce=first.nonce)
    signature = key.sign(request_statement(Kind.TRAIN, reused), domain=REQUEST_DOMAIN)
    assert answer(federation.site, Kind.TRAIN, replace(reused, signature=signature), arrays).reply.refusal == "nonce"


def test_a_message_that_the_network_doubles_gets_the_same_bytes_and_a_round_asked_again_the_same_update(
    federation: Federation,
) -> None:
    federation.start(0)
    asked = federation.request(Kind.TRAIN, 1)
    first, second = answer(federation.site, Kind.TRAIN, *asked), answer(federation.site, Kind.TRAIN, *asked)
    again = federation.ask(Kind.TRAIN, 1)
    assert first.reply == second.reply
    assert again.reply.refusal == ""
    assert again.reply.head != first.reply.head
    for result in (second, again):
        for name, array in first.arrays.items():
            np.testing.assert_array_equal(result.arrays[name], array)
    assert types(federation.site).count("reserve") == 2


CHANGES: list[dict[str, object]] = [
    {"round": 2},
    {"nonce": "another-nonce-of-16"},
    {"partner": "south"},
    {"receipt": ""},
    {"known": "{}"},
    {"signature": ""},
    {"signature": "0" * 128},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_request_that_was_changed_on_the_way_is_refused(change: dict[str, object], federation: Federation) -> None:
    federation.start(0)
    request, arrays = federation.request(Kind.TRAIN, 1)
    before = types(federation.site)
    changed = replace(request, **change)  # type: ignore[arg-type]
    assert answer(federation.site, Kind.TRAIN, changed, arrays).reply.refusal == "signature"
    assert types(federation.site) == before


def test_a_request_by_a_stranger_or_for_another_partner_is_refused(federation: Federation, tmp_path: Path) -> None:
    federation.start(0)
    request, arrays = federation.request(Kind.TRAIN, 1)
    for key, asked, code in (
        (SigningKey.from_seed(b"s" * 32), request, "signature"),
        (SigningKey.load(federation.folder / "key.pem"), replace(request, partner="south"), "nonce"),
        (SigningKey.load(federation.folder / "key.pem"), replace(request, nonce=""), "nonce"),
        (SigningKey.load(federation.folder / "key.pem"), replace(request, receipt="[]"), "protocol"),
    ):
        signed = replace(asked, signature=key.sign(request_statement(Kind.TRAIN, asked), domain=REQUEST_DOMAIN))
        assert answer(federation.site, Kind.TRAIN, signed, arrays).reply.refusal == code


def test_a_pinned_key_cannot_be_unpinned_in_the_settings_file(federation: Federation, make_request: object) -> None:
    federation.start(0)
    settings = federation.site.root / "site.toml"
    lines = [line for line in settings.read_text().splitlines() if not line.startswith("coordinator_key")]
    settings.write_text("\n".join(lines) + "\n")
    site = Site.open(federation.site.root)
    assert site.config.coordinator_key is None
    assert answer(site, Kind.TRAIN, *make_request(1)).reply.refusal == "signature"  # type: ignore[operator]


@pytest.mark.parametrize("signer", [None, b"s" * 32, "damaged"], ids=["unsigned", "stranger", "damaged"])
def test_a_bundle_that_the_coordinator_did_not_sign_is_refused_and_nothing_is_charged(
    federation: Federation, signer: bytes | str | None
) -> None:
    signature = federation.site.root / "features" / SIGNATURE
    if isinstance(signer, bytes):
        sign_bundle(signature.parent, SigningKey.from_seed(signer))
    elif signer is None:
        signature.unlink()
    else:
        signature.write_text(signer)
    reply = federation.ask(Kind.DESCRIBE).reply
    assert reply.refusal == "features-signature"
    assert str(signature.parent) not in reply.refusal_text
    assert types(federation.site) == ["open"]
    with pytest.raises(BundleSignatureError, match="sign"), federation.site.open_ledger() as ledger:
        federation.site.check_features(ledger.history.keys.get("server"))
    sign_bundle(signature.parent, coordinator_key(federation.folder))
    federation.start(0)


def test_only_enrolled_keys_are_believed(federation: Federation, make_site: Callable[..., Site]) -> None:
    stranger = make_site("south", coordinator=coordinator_key(federation.folder).public.hexadecimal)
    reply = answer(stranger, Kind.DESCRIBE, *federation.request(Kind.DESCRIBE)).reply
    assert reply.refusal == "nonce"
    with stranger.open_ledger() as ledger:
        shown = show(ledger, Challenge("any-nonce-will-do", 0))
    forged = replace(reply, refusal="", ledger_head=shown.ledger_head, head=shown.head, growth=shown.growth)
    assert refused(federation, forged) == "unknown_partner"
    head = {**json.loads(shown.head), "partner": "north"}
    assert refused(federation, replace(forged, partner="north", head=json.dumps(head))) == "bad_signature"


def test_the_last_receipt_ends_the_ledger_countersigned_and_more_of_them_add_nothing(federation: Federation) -> None:
    federation.start(1)
    with federation.site.open_ledger() as ledger:
        spent, size = ledger.spent(), len(ledger.records)
    for _ in range(3):
        result = federation.ask(Kind.RECEIPT)
        assert (result.reply.refusal, result.arrays) == ("", {})
    with federation.site.open_ledger() as ledger:
        assert ledger.spent() == spent
        assert len(ledger.records) == size + 1
        assert ledger.records[-1].whole("size") == size
    assert federation.ask(Kind.TRAIN, 2).reply.refusal == ""


def test_a_receipt_that_the_coordinator_did_not_sign_is_not_kept(federation: Federation) -> None:
    federation.start(1)
    before = types(federation.site)
    request, arrays = federation.request(Kind.RECEIPT)
    assert answer(federation.site, Kind.RECEIPT, replace(request, nonce="another-nonce"), arrays).reply.refusal != ""
    assert answer(federation.site, Kind.TRAIN, request, arrays).reply.refusal != ""
    assert types(federation.site) == before


@pytest.mark.parametrize("text", ["", "[]", "[" * 10**5, '{"a": 1}', '{"a": "xyz"}', "{"])
def test_a_list_of_partners_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "partners.json"
    path.write_text(text)
    with pytest.raises(MmrecError):
        read_partners(path)


def test_two_partners_with_one_key_are_refused(tmp_path: Path) -> None:
    key = SigningKey.from_seed(b"k" * 32).public.hexadecimal
    write_partners(tmp_path, {"north": key, "south": key})
    with pytest.raises(ConfigError, match="two partners one key"):
        read_partners(tmp_path / "partners.json")


def test_in_a_whole_run_a_partner_that_was_rolled_back_is_out_and_the_others_go_on(
    tmp_path: Path, make_site: Callable[..., Site], config: RunConfig
) -> None:
    workspace = tmp_path / "run"
    key = coordinator_key(workspace / "coordinator")
    sites = [
        make_site(name, coordinator=key.public.hexadecimal, seed=number)
        for number, name in enumerate(("north", "south"))
    ]
    for site in sites:
        sign_bundle(site.root / "features", key)
    write_partners(workspace / "coordinator", {site.config.name: site.public_key for site in sites})
    (workspace / "plan.json").write_text(config.model_dump_json())
    old = keep(sites[0], tmp_path / "backup")
    grid = LoopbackGrid(client_app, [site.root for site in sites], {})
    coordinate(grid, workspace, initial_state)
    journal = list(read_journal(workspace / "coordinator" / "run.jsonl"))
    told = ["described", "popularity", "round", "round", "round", "receipts", "finished"]
    assert [event["event"] for event in journal] == told
    assert all(event["rejected"] == {} for event in journal[:-1])
    assert set(journal[-3]["witness"]) == {"north", "south"}
    restore(sites[0], old)
    for file in (workspace / "coordinator" / "rounds").glob("00003.*"):
        file.unlink()
    coordinate(grid, workspace, initial_state)
    again = list(read_journal(workspace / "coordinator" / "run.jsonl"))[len(journal) :]
    assert [event["event"] for event in again] == ["described", "resumed", "round", "receipts", "finished"]
    (finding,) = again[0]["rejections"]
    assert (finding["reason"], "rollback" in finding["text"]) == ("refused_by_partner", True)
    assert again[2]["accepted"] == ["south"]
