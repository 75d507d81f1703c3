"""The preflight finds each planted fault, under its own name, with what to do; and a sound site passes."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from client.network_checks import NetworkChecks
from client.preflight import Finding, Surroundings, passed, run_checks
from client.site import Site
from client.site_checks import SiteChecks
from mmrec_model.canonical import JsonValue
from mmrec_model.federation_file import certificate_fingerprint, sign_federation
from mmrec_model.protocol import PROTOCOL_VERSION
from server.certificates import certify_server, make_authority, make_server_key
from server.sites import coordinator_key
from simulations.small_site import SmallSites, make_small_sites

NOW = datetime.now(UTC)
LEVELS = {"ok", "warning", "failed", "skipped"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallSites:
    return make_small_sites(tmp_path_factory.mktemp("small"))


@dataclass(frozen=True)
class Joined:
    """A site that has joined, and its coordinator's folder."""

    root: Path
    coordinator: Path

    def federation(self, address: str = "127.0.0.1:9", **fields: JsonValue) -> None:
        """Write the federation file that the coordinator would give out."""
        site = Site.open(self.root)
        authority = make_authority("north", NOW)[1]
        values: dict[str, JsonValue] = {
            "name": "north",
            "address": address,
            "ca_certificate": authority.public_bytes(Encoding.PEM).decode(),
            "ca_fingerprint": certificate_fingerprint(authority),
            "features_digest": site.bundle.digest,
            "items": len(site.bundle.item_ids),
            "code_digest": site.code_digest,
            "protocol_version": PROTOCOL_VERSION,
            "flwr_version": "1.41.0",
            "created": NOW.isoformat(timespec="seconds"),
        }
        file = sign_federation({**values, **fields}, coordinator_key(self.coordinator))
        (self.root / "federation.json").write_bytes(file.to_bytes())

    def finding(self, name: str, *, offline: bool = False, ports: tuple[int, ...] = (), **surroundings) -> Finding:
        """What one check finds."""
        around = Surroundings(**surroundings)
        own = SiteChecks(self.root, around)
        checks = [*own.all(), *NetworkChecks(own, around, ports, offline=offline).all()]
        (result,) = run_checks(check for check in checks if check[0] == name)
        return result.finding


@pytest.fixture
def joined(small: SmallSites, tmp_path: Path) -> Joined:
    """With a copy of the bundle of its own."""
    root, coordinator = small.copy_with_coordinator(tmp_path.name)
    shutil.copytree(small.folder / "features", root / "features")
    settings = (root / "site.toml").read_text().splitlines()
    lines = ['features = "features"' if line.startswith("features") else line for line in settings]
    (root / "site.toml").write_text("\n".join(lines) + "\n")
    site = Joined(root, coordinator)
    site.federation()
    return site


OWN = ("settings", "secrets", "ledger", "budget", "data", "enrolment", "features", "disk", "writing", "device", "code",
       "versions", "self-test", "ports", "federation", "authority")  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_a_sound_site_passes_every_check_that_needs_no_network(name, joined):
    assert joined.finding(name).level == "ok"


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def table(root: Path) -> tuple[Path, pa.Table]:
    (path,) = (root / "data").glob("interactions.*")
    return path, pq.read_table(path)


def rewritten(root: Path, change: Callable[[dict[str, list]], None]) -> None:
    path, rows = table(root)
    columns = rows.to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), path)


def no_folder(root: Path) -> None:
    shutil.rmtree(root / "data")


def unknown_setting(root: Path) -> None:
    with (root / "site.toml").open("a") as stream:
        stream.write("gpu = 4\n")


def unknown_limit(root: Path) -> None:
    with (root / "policy.toml").open("a") as stream:
        stream.write("max_epsilonn = 4\n")


def open_key(root: Path) -> None:
    (root / "key.pem").chmod(0o644)


def open_salt(root: Path) -> None:
    (root / "salt.bin").chmod(0o640)


def no_salt(root: Path) -> None:
    (root / "salt.bin").unlink()


def no_head(root: Path) -> None:
    (root / "ledger.head").unlink()


def edited_ledger(root: Path) -> None:
    replaced(root / "ledger.jsonl", '"users":30', '"users":31')


def torn_ledger(root: Path) -> None:
    with (root / "ledger.jsonl").open("ab") as stream:
        stream.write(b'{"body":{"run_id"')


def shorter_ledger(root: Path) -> None:
    before = (root / "ledger.jsonl").read_bytes()
    with Site.open(root).open_ledger() as ledger:
        ledger.append("data_prep", {"statistics": {}})
    (root / "ledger.jsonl").write_bytes(before)


def other_key(root: Path) -> None:
    from mmrec_model.privacy.keys import SigningKey

    (root / "key.pem").unlink()
    SigningKey.create(root / "key.pem")


def closed_ledger(root: Path) -> None:
    with Site.open(root).open_ledger() as ledger:
        ledger.append("close", {"run_id": None, "reason": "withdrawn"})


def spent_budget(root: Path) -> None:
    mechanism = {"type": "gaussian", "noise_multiplier": 0.07, "count": 1}
    with Site.open(root).open_ledger() as ledger:
        ledger._price = None
        ledger.release(name="survey", payload_digest="d" * 64, mechanism=mechanism, sensitivity=1.0)


def fewer_users(root: Path) -> None:
    path, rows = table(root)
    pq.write_table(rows.slice(0, len(rows) // 2), path)


def other_users(root: Path) -> None:
    def rename(columns: dict[str, list]) -> None:
        columns["user_id"] = [f"x{user}" for user in columns["user_id"]]

    rewritten(root, rename)


def unknown_items(root: Path) -> None:
    def strange(columns: dict[str, list]) -> None:
        columns["item_id"][0] = "nobody-knows"

    rewritten(root, strange)


def future_times(root: Path) -> None:
    def later(columns: dict[str, list]) -> None:
        columns["timestamp"][0] = NOW.timestamp() + 1e6

    rewritten(root, later)


def times_that_are_none(root: Path) -> None:
    def broken(columns: dict[str, list]) -> None:
        columns["timestamp"][:2] = [float("nan"), float("inf")]

    rewritten(root, broken)


def repeated_rows(root: Path) -> None:
    path, rows = table(root)
    pq.write_table(pa.concat_tables([rows, rows.slice(0, 3)]), path)


def empty_data(root: Path) -> None:
    path, rows = table(root)
    pq.write_table(rows.slice(0, 0), path)


def foreign_text(root: Path) -> None:
    path, _ = table(root)
    path.unlink()
    (root / "data" / "interactions.csv").write_bytes(b"user_id,item_id,timestamp\n\xff\xfe,i1,1600000000\n")


def damaged_bundle(root: Path) -> None:
    path = root / "features" / "text.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def unsigned_bundle(root: Path) -> None:
    (root / "features" / "manifest.sig").unlink()


def blocked_outbox(root: Path) -> None:
    (root / "outbox").write_text("not a folder")


def strange_code(root: Path) -> None:
    replaced(root / "policy.toml", 'allowed_code = ["*"]', f'allowed_code = ["{"c" * 64}"]')


FAULTS = [
    (no_folder, "settings", "failed", "data"),
    (unknown_setting, "settings", "failed", "gpu"),
    (unknown_limit, "policy", "failed", "max_epsilonn"),
    (open_key, "secrets", "failed", "key.pem has mode 0644"),
    (open_salt, "secrets", "failed", "salt.bin has mode 0640"),
    (no_salt, "secrets", "failed", "salt.bin"),
    (no_head, "secrets", "failed", "ledger.head"),
    (edited_ledger, "ledger", "failed", "hash"),
    (torn_ledger, "ledger", "warning", "torn last line of 17 bytes"),
    (shorter_ledger, "ledger", "failed", "the ledger has 1 records"),
    (other_key, "ledger", "failed", "another key"),
    (closed_ledger, "ledger", "failed", "closed"),
    (spent_budget, "budget", "failed", "spent"),
    (fewer_users, "data", "failed", "enrolled with 30 users, its data has 15"),
    (other_users, "enrolment", "failed", "user ids"),
    (unknown_items, "data", "warning", "interactions/unknown_item: 1"),
    (future_times, "data", "warning", "interactions/future_timestamp: 1"),
    (times_that_are_none, "data", "warning", "timestamp"),
    (repeated_rows, "data", "warning", "interactions/duplicate_row: 3"),
    (empty_data, "data", "failed", ""),
    (foreign_text, "data", "failed", "UTF-8"),
    (damaged_bundle, "features", "failed", "text.npy"),
    (unsigned_bundle, "features", "failed", "not signed"),
    (blocked_outbox, "writing", "failed", "outbox"),
    (strange_code, "code", "failed", "allowed"),
]


@pytest.mark.parametrize(("plant", "name", "level", "words"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_a_planted_fault_is_found_under_its_name(plant, name, level, words, joined):
    plant(joined.root)
    finding = joined.finding(name)
    assert finding.level == level, finding
    assert words in finding.value
    assert finding.remedy


def test_numbers_that_are_not_finite_in_a_bundle_are_found(joined, monkeypatch):
    bundle = Site.open(joined.root).bundle
    vectors = {name: np.full_like(array, np.nan) for name, array in bundle.vectors.items()}
    monkeypatch.setattr(Site, "bundle", type("Broken", (), {"vectors": vectors})())
    assert "not finite" in joined.finding("features").value


def test_a_ledger_that_is_in_use_is_said_to_be(joined):
    with Site.open(joined.root).open_ledger():
        assert joined.finding("writing").level == "warning"
        assert joined.finding("ledger").level == "ok"


@pytest.mark.parametrize(("free", "level"), [(0, "failed"), (15 * 2**20, "failed"), (2**30, "warning"), (2**40, "ok")])
def test_the_disk_is_judged_by_what_the_policy_allows(free, level, joined):
    assert joined.finding("disk", free_bytes=lambda _folder: free).level == level


@pytest.mark.parametrize(
    ("fields", "name", "level"),
    [
        ({"features_digest": "f" * 64}, "features", "failed"),
        ({"items": 41}, "features", "failed"),
        ({"code_digest": "c" * 64}, "code", "warning"),
        ({"protocol_version": PROTOCOL_VERSION + 1}, "versions", "failed"),
        ({"flwr_version": "1.40.0"}, "versions", "failed"),
        ({"flwr_version": "1.41.7"}, "versions", "ok"),
    ],
)
def test_what_the_federation_agreed_on_is_compared(fields, name, level, joined):
    joined.federation(**fields)
    assert joined.finding(name).level == level


def test_a_federation_file_of_another_coordinator_is_found(joined, tmp_path):
    Joined(joined.root, tmp_path / "stranger").federation()
    finding = joined.finding("federation")
    assert (finding.level, "names the coordinator" in finding.value) == ("failed", True)


def test_a_forged_federation_file_is_found(joined):
    replaced(joined.root / "federation.json", "127.0.0.1:9", "127.0.0.1:7")
    assert "not signed" in joined.finding("federation").value


@pytest.mark.parametrize(
    ("days", "level"), [(-1, "failed"), (0, "ok"), (3621, "warning"), (3649, "warning"), (3651, "failed")]
)
def test_the_authority_is_warned_of_a_month_before_it_ends_and_refused_outside_its_dates(days, level, joined):
    assert joined.finding("authority", now=lambda: NOW + timedelta(days=days)).level == level


def test_a_local_port_in_use_is_found(joined):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert joined.finding("ports", ports=(port,)).level == "failed"
    assert joined.finding("ports", ports=(port,)).level == "ok"


def test_offline_connects_to_nothing_and_says_so(joined, monkeypatch):
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for name in ("reachability", "tls", "clock"):
        assert joined.finding(name, offline=True) == Finding("skipped", "left out: --offline")


def test_a_site_that_joined_nothing_has_nothing_to_check_there(joined):
    (joined.root / "federation.json").unlink()
    for name in ("federation", "authority", "reachability", "tls", "clock"):
        assert joined.finding(name).level == "skipped"
    for name in ("features", "code", "versions"):
        assert joined.finding(name).level == "ok"


@contextmanager
def tls_server(tmp_path: Path, certificate: bytes, key: bytes, shift: timedelta = timedelta()) -> Iterator[int]:
    """A small server on loopback whose clock is `shift` ahead."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", format_datetime(datetime.now(UTC) + shift, usegmt=True))
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    path = tmp_path / "server.pem"
    path.write_bytes(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)

    class Server(HTTPServer):
        def get_request(self):
            plain, address = super().get_request()
            return context.wrap_socket(plain, server_side=True), address

        def handle_error(self, *_arguments: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextmanager
def coordinator_up(
    joined: Joined, tmp_path: Path, *, name: str = "127.0.0.1", made: datetime = NOW, days: int = 365,
    shift: timedelta = timedelta(), stranger: bool = False,
) -> Iterator[None]:  # fmt: skip
    authority = make_authority("north", made)
    key = make_server_key()
    certificate = certify_server(key.public_key(), [name], authority, made, days=days)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with tls_server(tmp_path, certificate.public_bytes(Encoding.PEM), private, shift) as port:
        trusted = make_authority("other", NOW)[1] if stranger else authority[1]
        pem = trusted.public_bytes(Encoding.PEM).decode()
        fields: dict[str, JsonValue] = {"ca_certificate": pem, "ca_fingerprint": certificate_fingerprint(trusted)}
        joined.federation(f"127.0.0.1:{port}", **fields)
        yield


def test_a_coordinator_that_is_up_passes_all_network_checks(joined, tmp_path):
    with coordinator_up(joined, tmp_path):
        found = {name: joined.finding(name) for name in ("reachability", "tls", "clock")}
    assert {name: finding.level for name, finding in found.items()} == dict.fromkeys(found, "ok")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "elsewhere.example.org"}, "IP address mismatch"),
        ({"stranger": True}, "unable to get local issuer certificate"),
        ({"made": NOW - timedelta(days=400)}, "certificate has expired"),
        ({"made": NOW + timedelta(days=2)}, "not yet valid"),
    ],
)
def test_a_server_certificate_that_does_not_hold_is_found(options, words, joined, tmp_path):
    with coordinator_up(joined, tmp_path, **options):
        finding = joined.finding("tls")
    assert (finding.level, words in finding.value) == ("failed", True), finding


def test_a_server_certificate_near_its_end_is_warned_of(joined, tmp_path):
    with coordinator_up(joined, tmp_path, days=20):
        assert joined.finding("tls").level == "warning"


@pytest.mark.parametrize(
    ("shift", "level", "side"),
    [(600, "failed", "behind"), (-600, "failed", "ahead"), (120, "warning", "behind"), (-20, "ok", "ahead")],
)
def test_a_clock_that_differs_is_measured(shift, level, side, joined, tmp_path):
    with coordinator_up(joined, tmp_path, shift=timedelta(seconds=shift)):
        finding = joined.finding("clock")
    said = re.fullmatch(r"this clock is (\d+) s (ahead|behind)", finding.value)
    assert said is not None
    assert (finding.level, said[2]) == (level, side)
    assert abs(int(said[1]) - abs(shift)) <= 15, "the date is told in whole seconds, and this machine may be slow"


def test_a_clock_is_measured_even_if_it_makes_the_certificate_invalid(joined, tmp_path):
    with coordinator_up(joined, tmp_path, made=NOW + timedelta(days=2), shift=timedelta(days=2)):
        finding = joined.finding("clock")
    assert finding.level == "failed"
    assert "behind" in finding.value


def test_a_closed_port_is_found_with_its_address(joined):
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        joined.federation(f"127.0.0.1:{bound.getsockname()[1]}")
        for name in ("reachability", "tls", "clock"):
            finding = joined.finding(name)
            assert finding.level == "failed"
            assert "refused" in finding.value


def test_a_server_that_speaks_no_tls_is_found(joined):
    with closing(socket.socket()) as plain:
        plain.bind(("127.0.0.1", 0))
        plain.listen()
        joined.federation(f"127.0.0.1:{plain.getsockname()[1]}")
        assert joined.finding("reachability").level == "ok"
        assert joined.finding("tls", timeout=0.2).level == "failed"


def test_a_check_that_fails_stops_no_other(joined):
    no_folder(joined.root)
    own = SiteChecks(joined.root, Surroundings())
    results = run_checks(check for check in own.all() if check[0] not in {"self-test"})
    assert [result.number for result in results] == list(range(1, len(results) + 1))
    assert not passed(results)
    levels = {result.name: result.finding.level for result in results}
    assert (levels["settings"], levels["ledger"], levels["versions"]) == ("failed", "ok", "ok")


def test_an_unexpected_error_is_a_failed_check():
    (result,) = run_checks([("strange", lambda: 1 / 0)])
    assert (result.finding.level, "ZeroDivisionError" in result.finding.value) == ("failed", True)


def test_every_result_has_a_form_for_programs(joined):
    own = SiteChecks(joined.root, Surroundings())
    for result in run_checks([own.all()[0], ("strange", lambda: 1 / 0)]):
        assert set(json.loads(json.dumps(result.to_json()))) == {"number", "name", "level", "value", "limit", "remedy"}
        assert result.finding.level in LEVELS
