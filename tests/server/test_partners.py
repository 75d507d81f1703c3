"""The list of partners: both of its forms, revocation, and what a run under way does with it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer import Typer
from typer.testing import CliRunner

import server.cli
from mmrec_model.enrolment_file import EnrolmentFile, sign_enrolment
from mmrec_model.errors import AdmissionError, ConfigError, LedgerError, TrustError, UsageError
from mmrec_model.federation_file import FederationFile
from mmrec_model.privacy.countersign import HeadBook
from mmrec_model.privacy.heads import Head, sign_head
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.protocol import Kind, Reply, Request
from server.admission import Expected
from server.operation import enrol_from_file, enrol_partner, write_node_keys
from server.partners import Partner, Revocation, RevocationList, read_list, revoke, write_list
from server.sites import HEADS, Sites, coordinator_key, read_partners, write_partners
from server.waves import Delivery, Opened, Wave, gather

NOW = datetime(2026, 5, 1, tzinfo=UTC)
Founded = tuple[Path, FederationFile]


def key(letter: str) -> SigningKey:
    return SigningKey.from_seed(letter.encode() * 32)


def enrolment(
    federation: FederationFile, name: str = "north", letter: str = "n", node: str | None = None
) -> EnrolmentFile:
    opening = sign_head(name, Head(1, "a" * 64, "a" * 64), "0" * 32, key(letter))
    return sign_enrolment(opening, key(letter), federation=federation.digest, users=60, node_key=node or node_key())


def node_key() -> str:
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_both_forms_of_a_partner_read_back(tmp_path: Path) -> None:
    revoked = Revocation(at="2026-05-01T00:00:00+00:00", reason="left")
    partners = {
        "a": Partner(key=key("a").public.hexadecimal),
        "b": Partner(key=key("b").public.hexadecimal, node_key=node_key(), users=5, opening="0" * 64, revoked=revoked),
    }
    write_list(tmp_path / "partners.json", partners)
    assert read_list(tmp_path / "partners.json") == partners
    assert json.loads((tmp_path / "partners.json").read_bytes())["a"] == key("a").public.hexadecimal
    assert read_partners(tmp_path / "partners.json")["b"] == key("b").public


def test_an_enrolment_is_kept_with_its_node_key_and_its_opening(founded: Founded) -> None:
    folder, federation = founded
    file = enrolment(federation)
    enrol_from_file(folder, file, now=NOW)
    one = read_list(folder / "partners.json")["north"]
    assert one == Partner(
        key=file.site_key,
        node_key=file.node_key,
        users=60,
        opening=file.ledger_opening,
        enrolled="2026-05-01T00:00:00+00:00",
    )
    with HeadBook(folder / HEADS, coordinator_key(folder)) as book:
        assert book.head("north") == Head(1, file.ledger_opening, file.ledger_opening)


def test_a_name_or_a_key_is_enrolled_once(founded: Founded) -> None:
    folder, federation = founded
    first = enrolment(federation)
    enrol_from_file(folder, first, now=NOW)
    before = (folder / "partners.json").read_bytes(), (folder / HEADS).read_bytes()
    for again, what in (
        (first, "name"),
        (enrolment(federation, "north", "m"), "name"),
        (enrolment(federation, "south", "n"), "site key"),
        (enrolment(federation, "south", "m", first.node_key), "node key"),
    ):
        with pytest.raises(ConfigError, match=f"the {what} of"):
            enrol_from_file(folder, again, now=NOW)
    assert ((folder / "partners.json").read_bytes(), (folder / HEADS).read_bytes()) == before


def test_a_revoked_partner_does_not_come_back_under_its_name(founded: Founded) -> None:
    folder, federation = founded
    enrol_from_file(folder, enrolment(federation), now=NOW)
    revoke(folder, "north", reason="left", now=NOW)
    with pytest.raises(ConfigError, match="revoked"):
        enrol_from_file(folder, enrolment(federation, "north", "m"), now=NOW)
    with pytest.raises(ConfigError, match="revoked"):
        enrol_partner(folder, "north", key("m").public, replace=True)


def test_an_enrolment_for_another_federation_is_refused(founded: Founded) -> None:
    folder, federation = founded
    other = federation.model_copy(update={"name": "other"})
    with pytest.raises(TrustError, match="joins the federation"):
        enrol_from_file(folder, enrolment(other), now=NOW)
    assert not (folder / "partners.json").exists()


def test_enrolment_waits_for_the_end_of_a_run_and_revocation_does_not(founded: Founded) -> None:
    folder, federation = founded
    enrol_from_file(folder, enrolment(federation), now=NOW)
    with Sites.open(folder):
        with pytest.raises(LedgerError, match="held by another"):
            enrol_from_file(folder, enrolment(federation, "south", "m"), now=NOW)
        revoke(folder, "north", reason="left", now=NOW)
    assert read_list(folder / "partners.json")["north"].revoked == Revocation(
        at="2026-05-01T00:00:00+00:00", reason="left"
    )


@pytest.mark.parametrize(("name", "reason"), [("nobody", "x"), ("north", ""), ("north", "x" * 501), ("gone", "x")])
def test_a_revocation_needs_a_standing_partner_and_a_reason(name: str, reason: str, tmp_path: Path) -> None:
    write_partners(tmp_path, {"north": key("n").public.hexadecimal, "gone": key("g").public.hexadecimal})
    revoke(tmp_path, "gone", reason="left", now=NOW)
    before = (tmp_path / "partners.json").read_bytes()
    with pytest.raises(ConfigError):
        revoke(tmp_path, name, reason=reason, now=NOW)
    assert (tmp_path / "partners.json").read_bytes() == before


def test_a_revocation_is_seen_by_who_had_read_the_list_before(tmp_path: Path) -> None:
    listed = RevocationList(tmp_path / "partners.json")
    assert listed.of("north") is None
    write_partners(tmp_path, {"north": key("n").public.hexadecimal})
    assert listed.of("north") is None
    revoke(tmp_path, "north", reason="left", now=NOW)
    revocation = listed.of("north")
    assert revocation is not None
    assert revocation.reason == "left"
    (tmp_path / "partners.json").write_text("{")
    with pytest.raises(ConfigError):
        listed.of("north")


def test_a_run_under_way_asks_and_believes_a_revoked_partner_no_more(tmp_path: Path) -> None:
    coordinator_key(tmp_path)
    write_partners(tmp_path, {name: key(name[0]).public.hexadecimal for name in ("north", "south")})
    request = Request("run", 1, "{}")
    with Sites.open(tmp_path) as sites:
        sites.address(Kind.TRAIN, request, "north")
        revoke(tmp_path, "north", reason="left", now=NOW)
        for refused in (
            lambda: sites.address(Kind.TRAIN, request, "north"),
            lambda: sites.admit(Reply("north", "run", 1, "train", "", 60)),
        ):
            with pytest.raises(AdmissionError, match="left") as error:
                refused()
            assert error.value.reason == "revoked"
        assert list(json.loads(sites.describe(request).known)) == [key("s").public.key_id]
        sites.address(Kind.TRAIN, request, "south")


def test_another_number_of_users_than_enrolled_is_refused(founded: Founded) -> None:
    folder, federation = founded
    enrol_from_file(folder, enrolment(federation), now=NOW)
    with Sites.open(folder) as sites, pytest.raises(AdmissionError) as error:
        sites.admit(Reply("north", "run", 1, "train", "", 61))
    assert error.value.reason == "users_changed"


def test_an_update_that_was_admitted_before_the_revocation_is_discarded_at_the_end_of_the_wave(tmp_path: Path) -> None:
    coordinator_key(tmp_path)
    write_partners(tmp_path, {name: key(name[0]).public.hexadecimal for name in ("north", "south")})
    request = Request("run", 1, "{}")
    wave = Wave(request, {1: "north", 2: "south"}, (), {1: 0, 2: 0})
    expected = Expected(request, Kind.TRAIN, {}, {"north": 60, "south": 60}, {"north": 0.0, "south": 0.0})

    def deliveries() -> object:
        yield Delivery(1, Opened(Reply("north", "run", 1, Kind.TRAIN.value, "", 60), {}, 1))
        revoke(tmp_path, "north", reason="left", now=NOW)
        yield Delivery(2, Opened(Reply("south", "run", 1, Kind.TRAIN.value, "", 60), {}, 1))

    with Sites.open(tmp_path) as sites:
        admitted, facts = gather(deliveries(), wave, expected, lambda *_: None, sites.require_standing)
    assert set(admitted) == {"south"}
    assert facts.accepted == ("south",)
    assert [(one.partner, one.reason) for one in facts.rejected] == [("north", "revoked")]


def test_the_node_keys_of_standing_partners_are_written_and_those_of_revoked_ones_removed(founded: Founded) -> None:
    folder, federation = founded
    north, south = enrolment(federation), enrolment(federation, "south", "m")
    for file in (north, south):
        enrol_from_file(folder, file, now=NOW)
    assert set(write_node_keys(folder, folder / "keys")) == {"north", "south"}
    assert (folder / "keys" / "north.pub").read_text() == f"{north.node_key} north\n"
    revoke(folder, "north", reason="left", now=NOW)
    assert set(write_node_keys(folder, folder / "keys")) == {"south"}
    assert [path.name for path in (folder / "keys").iterdir()] == ["south.pub"]


def invoke(*words: str) -> object:
    app = Typer()
    app.callback()(lambda: None)
    server.cli.register(app)
    return CliRunner().invoke(app, ["coordinator", *words])


def test_the_list_is_shown_as_table_and_as_json(founded: Founded) -> None:
    folder, federation = founded
    enrol_from_file(folder, enrolment(federation), now=NOW)
    enrol_partner(folder, "[red]south", key("m").public)
    revoke(folder, "north", reason="left", now=NOW)
    shown = json.loads(invoke("partners", str(folder), "--json").stdout)
    assert shown["north"]["revoked"] == {"at": "2026-05-01T00:00:00+00:00", "reason": "left"}
    assert shown["[red]south"]["node_key"] is None
    table = invoke("partners", str(folder)).stdout
    assert "revoked" in table
    assert "[red]sou" in table


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["north"],
        ["north", "0" * 64, "--fingerprint", "x"],
        ["--enrolment", "e.json"],
        ["--fingerprint", "x"],
        ["--enrolment", "e.json", "--fingerprint", "x", "--replace"],
        ["north", "--enrolment", "e.json", "--fingerprint", "x"],
    ],
)
def test_enrol_takes_a_compared_file_or_name_and_key(words: list[str], tmp_path: Path) -> None:
    done = invoke("enrol", str(tmp_path), *words)
    assert isinstance(done.exception, UsageError)
