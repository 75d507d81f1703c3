"""Keys are replaced while a federation runs: by two signatures in the ledger, by the operator's hand, never otherwise.

Both sides are the real ones: `client.release.answer` over a real site folder, and `server.sites.Sites`.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from flwr.app import Message
from flwr.common.serde import message_to_proto
from typer.testing import CliRunner

from client import cli as site_cli
from client import rotation
from client.app import app as client_app
from client.coordinator import Challenge, show
from client.release import answer
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.errors import AdmissionError, ConfigError
from mmrec_model.features.signature import sign_bundle
from mmrec_model.model.recommender import initial_state
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.heads import Head, sign_growth, sign_head
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.privacy.ledger import read_ledger
from mmrec_model.privacy.rotation import rotations_from_json
from mmrec_model.protocol import FIELDS, Kind, Reply
from server import cli as coordinator_cli
from server import operation
from server.app import coordinate
from server.journal import read_journal
from server.sites import Sites, coordinator_key, write_partners
from simulations.loopback import LoopbackGrid

Federation = Any  # the fixture of conftest.py


def refused(federation: Federation, reply: Reply) -> str:
    with pytest.raises(AdmissionError) as error:
        federation.admit(reply)
    return str(error.value.reason)


def known_keys(federation: Federation) -> list[str]:
    entry = json.loads((federation.folder / "heads.json").read_text())["partners"]["north"]
    return [item["public_key"] for item in entry["former"]] + [entry["public_key"]]


@pytest.mark.parametrize("kind", [Kind.DESCRIBE, Kind.TRAIN])
def test_the_coordinator_follows_a_rotation_with_the_next_message_and_nothing_is_charged_for_it(
    kind: Kind, federation: Federation
) -> None:
    federation.start(1)
    old = federation.site.public_key
    with federation.site.open_ledger() as ledger:
        before = ledger.spent()
    new = rotation.rotate_key(federation.site.root).hexadecimal
    assert federation.site.public_key == new != old
    assert stat.S_IMODE((federation.site.root / "key.pem").stat().st_mode) == 0o600
    reply = federation.ask(kind, 2 if kind is Kind.TRAIN else 0).reply
    assert reply.refusal == ""
    assert known_keys(federation) == [old, new]
    with federation.site.open_ledger() as ledger:
        shown = [item.record for item in rotations_from_json(json.loads(reply.rotations))]
        assert shown == [record for record in ledger.records if record.type == "key_rotate"]
        assert len(ledger.spent()) == len(before) + (kind is Kind.TRAIN)
    assert federation.ask(Kind.TRAIN, 3).reply.rotations == "", "told once"
    assert len(read_ledger(federation.site.root / "ledger.jsonl", PublicKey(old))) > 0


def test_a_head_of_the_former_key_or_of_a_key_without_a_rotation_is_refused(federation: Federation) -> None:
    federation.start(1)
    former = SigningKey.load(federation.site.root / "key.pem")
    rotation.rotate_key(federation.site.root)
    honest = answer(federation.site, Kind.TRAIN, *federation.request(Kind.TRAIN, 2)).reply
    assert refused(federation, replace(honest, rotations="")) == "bad_signature"
    record = json.loads(honest.rotations)
    record[0]["path"] = record[0]["path"][:-1]
    assert refused(federation, replace(honest, rotations=json.dumps(record))) == "bad_signature"
    federation.admit(honest)
    request, _ = federation.request(Kind.TRAIN, 3)
    with federation.site.open_ledger() as ledger:
        head = sign_head("north", ledger.head, request.nonce, former)
        growth = sign_growth(head, ledger.head.size, (), former)
    late = replace(honest, round=3, head=json.dumps(head.to_json()), growth=json.dumps(growth.to_json()))
    assert refused(federation, late) == "bad_signature"


def test_a_rotation_for_compromise_waits_for_the_operator(federation: Federation) -> None:
    federation.start(1)
    old = federation.site.public_key
    new = rotation.rotate_key(federation.site.root, reason="compromised")
    result = answer(federation.site, Kind.TRAIN, *federation.request(Kind.TRAIN, 2))
    assert refused(federation, result.reply) == "bad_signature"
    assert known_keys(federation) == [old]
    with pytest.raises(LedgerFault) as caught:
        operation.enrol_partner(federation.folder, "north", new)
    assert caught.value.code is FaultCode.KEY
    operation.enrol_partner(federation.folder, "north", new, replace=True)
    assert federation.ask(Kind.TRAIN, 2).reply.refusal == ""
    assert known_keys(federation) == [old, new.hexadecimal]
    operation.enrol_partner(federation.folder, "north", new, replace=True)
    assert known_keys(federation) == [old, new.hexadecimal], "a second confirmation does nothing"


@pytest.mark.parametrize("recorded", [False, True])
def test_a_rotation_that_a_crash_cut_short_is_ended_or_begun_again(
    recorded: bool, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.start(1)
    old = federation.site.public_key

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*((rotation, "_take_over") if recorded else (rotation.Ledger, "rotate_key")), die)
    with pytest.raises(KeyboardInterrupt):
        rotation.rotate_key(federation.site.root)
    monkeypatch.undo()
    waiting = SigningKey.load(federation.site.root / rotation.NEXT_KEY).public.hexadecimal
    assert federation.ask(Kind.TRAIN, 2).reply.refusal == ""
    assert federation.site.public_key == (waiting if recorded else old)
    if not recorded:
        assert rotation.rotate_key(federation.site.root).hexadecimal == waiting, "the key that was made is used"
    assert not (federation.site.root / rotation.NEXT_KEY).exists()
    assert federation.ask(Kind.TRAIN, 3).reply.refusal == ""
    assert known_keys(federation) == [old, waiting]


def test_a_new_key_of_the_coordinator_is_accepted_through_the_partners_own_ledger_alone(
    federation: Federation, tmp_path: Path
) -> None:
    federation.start(1)
    new = operation.begin_rotation(federation.folder)
    assert operation.begin_rotation(federation.folder) == new
    place = rotation.server_key_place(federation.site.root, new)
    signed = operation.sign_rotation(federation.folder, place)
    assert operation.end_rotation(federation.folder) == new
    before = (federation.site.root / "ledger.jsonl").read_bytes()
    assert federation.ask(Kind.TRAIN, 2).reply.refusal == "signature"
    assert (federation.site.root / "ledger.jsonl").read_bytes() == before
    swapped = signed["new_signature"], signed["old_signature"]
    for signatures in (swapped, (None, signed["new_signature"]), (signed["old_signature"], "0" * 128)):
        with pytest.raises(LedgerFault):
            rotation.accept_server_key(federation.site.root, new, *signatures)
    rotation.accept_server_key(federation.site.root, new, **signed)
    assert federation.ask(Kind.TRAIN, 2).reply.refusal == "features-signature", "the former key signed the bundle"
    federation.sign_features()
    for number in (2, 3):
        assert federation.ask(Kind.TRAIN, number).reply.refusal == ""
    with federation.site.open_ledger() as ledger:
        assert ledger.records[-3].text("server_key_id") == new.key_id, "countersigned by the new key"
        assert {receipt.key_id for receipt in ledger.countersignatures} > {new.key_id}


def test_the_signatures_for_one_place_do_not_serve_another_and_a_late_partner_still_gets_them(
    federation: Federation,
) -> None:
    federation.start(0)
    new = operation.begin_rotation(federation.folder)
    early = operation.sign_rotation(federation.folder, rotation.server_key_place(federation.site.root, new))
    federation.ask(Kind.TRAIN, 1)
    with pytest.raises(LedgerFault, match="both signatures"):
        rotation.accept_server_key(federation.site.root, new, **early)
    operation.end_rotation(federation.folder)
    late = operation.sign_rotation(federation.folder, rotation.server_key_place(federation.site.root, new))
    rotation.accept_server_key(federation.site.root, new, **late)
    federation.sign_features()
    assert federation.ask(Kind.TRAIN, 2).reply.refusal == ""
    stranger = SigningKey.from_seed(b"x" * 32).public
    for place in (replace(rotation.server_key_place(federation.site.root, new), role="partner"),):
        with pytest.raises(ConfigError, match="not this coordinator's new key"):
            operation.sign_rotation(federation.folder, place)
    with pytest.raises(ConfigError, match="not this coordinator's new key"):
        operation.sign_rotation(federation.folder, rotation.server_key_place(federation.site.root, stranger))
    with pytest.raises(ConfigError, match="does not exist"):
        operation.end_rotation(federation.folder)


def run_cli(register: Callable[[typer.Typer], None], *words: object, status: int = 0) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == status, done.output
    return done.stdout


def test_the_commands_lead_through_both_rotations_and_an_explained_fork(federation: Federation, tmp_path: Path) -> None:
    federation.start(1)
    site, folder = federation.site.root, federation.folder
    printed = run_cli(site_cli.register, "site", "rotate-key", site).strip()
    assert printed == federation.site.public_key
    assert federation.ask(Kind.TRAIN, 2).reply.refusal == ""
    new = run_cli(coordinator_cli.register, "coordinator", "new-key", folder).strip()
    place, answered = tmp_path / "place.json", tmp_path / "signed.json"
    place.write_text(run_cli(site_cli.register, "site", "server-key", site, new))
    answered.write_text(run_cli(coordinator_cli.register, "coordinator", "sign-key", folder, place))
    run_cli(coordinator_cli.register, "coordinator", "use-key", folder)
    run_cli(site_cli.register, "site", "server-key", site, new, "--signed", answered)
    run_cli(coordinator_cli.register, "coordinator", "sign-features", folder, site / "features")
    assert federation.ask(Kind.TRAIN, 3).reply.refusal == ""
    compromised = run_cli(site_cli.register, "site", "rotate-key", site, "--compromised").strip()
    run_cli(coordinator_cli.register, "coordinator", "enrol", folder, "north", compromised, "--replace")
    assert known_keys(federation)[-1] == compromised
    run_cli(
        coordinator_cli.register,
        *("coordinator", "explain-fork", folder, "north", "--keep", "first", "--because", "none"),
        status=1,
    )


def test_the_proof_of_an_explained_fork_stays_with_its_explanation(federation: Federation) -> None:
    federation.start(1)
    request, _ = federation.request(Kind.TRAIN, 2)
    with federation.site.open_ledger() as ledger:
        honest = show(ledger, Challenge(request.nonce, 0))
    key = SigningKey.load(federation.site.root / "key.pem")
    forged = Site.open(federation.site.root)
    reply = answer(forged, Kind.TRAIN, *federation.request(Kind.TRAIN, 2)).reply
    federation.admit(reply)
    head = json.loads(reply.head)
    other = sign_head("north", Head(head["size"], "1" * 64, "2" * 64), head["nonce"], key)
    growth = sign_growth(other, 0, (), key)
    lie = replace(reply, ledger_head="1" * 64, head=json.dumps(other.to_json()), growth=json.dumps(growth.to_json()))
    assert honest.head != reply.head
    assert refused(federation, lie) == "fork"
    with pytest.raises(AdmissionError):
        federation.request(Kind.TRAIN, 3)
    operation.explain_fork(federation.folder, "north", keep="first", because="a restored backup, removed")
    (file,) = (federation.folder / "forks").glob("*.json")
    assert json.loads(file.read_text())["explanation"]["because"] == "a restored backup, removed"
    assert federation.ask(Kind.TRAIN, 3).reply.refusal == ""


def test_while_a_coordinator_works_in_its_folder_a_second_one_and_an_operator_are_refused(
    federation: Federation,
) -> None:
    with Sites.open(federation.folder):
        for work in (
            lambda: Sites.open(federation.folder),
            lambda: operation.end_rotation(federation.folder),
            lambda: operation.enrol_partner(federation.folder, "south", SigningKey.from_seed(b"s" * 32).public),
        ):
            with pytest.raises(LedgerFault) as caught:
                work()
            assert caught.value.code is FaultCode.LOCKED
    federation.start(0)


def test_in_a_whole_run_a_partner_rotates_between_rounds_and_nothing_but_its_record_leaves_in_addition(
    tmp_path: Path, make_site: Callable[..., Site], config: RunConfig
) -> None:
    workspace = tmp_path / "run"
    key = coordinator_key(workspace / "coordinator").public.hexadecimal
    sites = [make_site(name, coordinator=key, seed=number) for number, name in enumerate(("north", "south"))]
    for site in sites:
        sign_bundle(site.root / "features", coordinator_key(workspace / "coordinator"))
    enrolled = {site.config.name: site.public_key for site in sites}
    write_partners(workspace / "coordinator", enrolled)
    (workspace / "plan.json").write_text(config.model_dump_json())
    tape: list[tuple[Message, Message]] = []

    def rotate_after_round_1(request: Message, reply: Message) -> list[Message]:
        said = reply.content.config_records[FIELDS]
        tape.append((request, reply))
        if (said["partner"], said["kind"], said["round"]) == ("north", Kind.TRAIN, 1):
            rotation.rotate_key(sites[0].root)
        return [reply]

    grid = LoopbackGrid(client_app, [site.root for site in sites], {}, channel=rotate_after_round_1)
    coordinate(grid, workspace, initial_state)
    journal = list(read_journal(workspace / "coordinator" / "run.jsonl"))
    assert all(event["rejected"] == {} for event in journal[:-1])
    with sites[0].open_ledger() as ledger:
        (record,) = [record for record in ledger.records if record.type == "key_rotate"]
        genesis, hashes = ledger.records[0].hash, {item.hash for item in ledger.records}
    spoken = {
        (str(said["partner"]), int(said["round"])): str(said["rotations"])
        for _, reply in tape
        for said in [reply.content.config_records[FIELDS]]
        if said["rotations"]
    }
    assert list(spoken) == [("north", 2)]
    (shown,) = json.loads(spoken["north", 2])
    assert set(shown) == {"genesis", "record", "path"}
    assert (shown["genesis"], shown["record"]) == (genesis, record.line[:-1].decode())
    assert all(len(node) == 64 for node in shown["path"])
    secrets = [(site.root / "key.pem").read_bytes().split(b"\n")[1] for site in sites]
    up = b"".join(message_to_proto(reply).SerializeToString() for _, reply in tape)
    assert not any(secret in up for secret in secrets)
    assert record.hash in hashes
    book = json.loads((workspace / "coordinator" / "heads.json").read_text())["partners"]
    assert [item["public_key"] for item in book["north"]["former"]] == [enrolled["north"]]
    assert book["south"]["former"] == []
    coordinate(grid, workspace, initial_state)
