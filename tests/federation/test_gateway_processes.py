"""A partner reaches the Fleet calls through the gateway and nothing else: nginx, SuperLink and nodes as real processes.

Run by `pytest -m slow tests/federation/test_gateway_processes.py`; the program nginx must be installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from server.founding import renew_certificate
from server.gateway import configuration, nginx_command, plan_gateway, write_gateway
from server.superlink import superexec_command, superlink_command
from tests.federation.programs import NOW, Enrolled, environment, flwr, found_and_enrol, free_port, program, waited
from tests.server.request_lines import CALL, FORWARDED, REFUSED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="the program nginx is not installed on this machine"),
]
HERE, OUTSIDE = "10.203.7.1", "10.203.7.2"
APP = """
[project]
name = "tiny"
version = "0.1.0"
dependencies = []
[tool.flwr.app]
publisher = "mmrec"
[tool.flwr.app.components]
serverapp = "tiny:server"
clientapp = "tiny:client"
"""
APP_CODE = """
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid, context):
    pass
"""


@dataclass(frozen=True)
class Running:
    """A federation that runs: what was founded, the ports, and the SuperLink's log."""

    made: Enrolled
    public: int
    private: int
    health: int
    log: Path
    nginx: subprocess.Popen[bytes]

    def heard(self, text: str) -> int:
        """How often the SuperLink's log names something."""
        return self.log.read_text().count(text)

    def answers(self, sent: bytes, *, port: int | None = None) -> list[int]:
        """The statuses of all answers to these bytes, on one connection that is closed behind them."""
        context = ssl.create_default_context(cafile=str(self.made.ca))
        received = b""
        with (
            socket.create_connection(("127.0.0.1", port or self.public), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(sent)
            try:
                while part := tls.recv(65536):
                    received += part
            except (TimeoutError, ssl.SSLError, ConnectionError):
                pass
        return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)]

    def post(self, path: str, body: bytes = b"", *, port: int | None = None) -> int:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {PROTOBUF_MEDIA_TYPE}\r\n"
        return self.answers(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, port=port)[0]

    def online(self) -> bool:
        listed = json.loads(flwr(self.made.folder, "supernode", "list", "--format", "json", "private"))
        return [one["status"] for one in listed["nodes"]] == ["online"]


@contextlib.contextmanager
def started(folder: Path, data: Path, host: str) -> Iterator[Running]:
    """A SuperLink on loopback, and the gateway to it at `host`."""
    public, private, health = free_port(), free_port(), free_port()
    made = found_and_enrol(folder, data, f"{host}:{public}")
    made.connections(private=f"127.0.0.1:{private}", public=f"{host}:{public}")
    planned = plan_gateway(
        made.coordinator, listen=f"{host}:{public}", superlink=f"127.0.0.1:{private}", health_port=health
    )
    words = nginx_command(write_gateway(planned))
    checked = subprocess.run([*words, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    with (
        program(folder, *superlink_command(made.coordinator, port=private)) as (_, log),
        program(folder, *words) as (nginx, said),
    ):
        assert waited(lambda: "Uvicorn running" in log.read_text()), log.read_text()
        assert nginx.poll() is None, said.read_text()
        yield Running(made, public, private, health, log, nginx)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, small_partner: Path) -> Iterator[Running]:
    with started(tmp_path_factory.mktemp("gateway"), small_partner, "127.0.0.1") as one:
        yield one


@pytest.fixture
def elsewhere() -> Iterator[list[str]]:
    """The words that run a program in a network of its own, joined to this one by a cable: OUTSIDE there, HERE here."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip")
    name = f"mm{os.getpid()}"
    steps = (
        f"netns add {name}",
        f"link add {name}a type veth peer name {name}b netns {name}",
        f"addr add {HERE}/30 dev {name}a",
        f"link set {name}a up",
        f"-n {name} addr add {OUTSIDE}/30 dev {name}b",
        f"-n {name} link set {name}b up",
        f"-n {name} link set lo up",
    )
    try:
        for step in steps:
            done = subprocess.run(["ip", *step.split()], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no network namespace can be made here: ip {step}: {done.stderr.strip()}")
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_from_a_partners_machine_there_is_the_gateway_and_nothing_else(
    tmp_path: Path, small_partner: Path, elsewhere: list[str]
) -> None:
    with started(tmp_path, small_partner, HERE) as one:
        assert "registered" in flwr(tmp_path, "supernode", "register", str(one.made.node_key), "private")
        for port, expected in ((one.public, 0), (one.private, 1), (one.health, 1)):
            reach = f"import socket; socket.create_connection(('{HERE}', {port}), timeout=5)"
            assert (
                subprocess.run([*elsewhere, sys.executable, "-c", reach], capture_output=True, check=False).returncode
                == expected
            )
        with program(tmp_path, *elsewhere, *one.made.node(f"{HERE}:{one.public}")) as (_, said):
            assert waited(one.online), said.read_text()
            done = subprocess.run(
                [*elsewhere, "flwr", "list", "public"], capture_output=True, check=False, env=environment(tmp_path)
            )
            assert b"403" in done.stdout + done.stderr
        assert f"{OUTSIDE}:0 - " in one.log.read_text()
        log = (one.made.coordinator / "gateway" / "access.log").read_text().splitlines()
        assert {json.loads(line)["address"] for line in log} == {OUTSIDE}


def test_an_enrolled_node_comes_online_through_the_gateway_and_a_run_is_the_coordinators(running: Running) -> None:
    folder, made = running.made.folder, running.made
    app = folder / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(APP)
    (app / "tiny.py").write_text(APP_CODE)
    assert "403" in flwr(folder, "supernode", "register", str(made.node_key), "public", "--name", "north")
    assert "registered" in flwr(folder, "supernode", "register", str(made.node_key), "private", "--name", "north")
    with program(folder, *made.node(f"127.0.0.1:{running.public}")):
        assert waited(running.online)
        for words in (["run", str(app)], ["list"], ["supernode", "list"], ["stop", "1"]):
            said = flwr(folder, *words, "public")
            assert "403" in said or "orbidden" in said, (words, said)
        assert json.loads(flwr(folder, "list", "--format", "json", "private"))["runs"] == []
        with program(folder, *superexec_command(made.coordinator, port=running.private)) as (_, executor):
            assert "uccessfully started run" in (said := flwr(folder, "run", str(app), "private")), said

            def ended() -> bool:
                listed = json.loads(flwr(folder, "list", "--format", "json", "private"))["runs"]
                return [one["status"] for one in listed] == ["finished:completed"]

            assert waited(ended), executor.read_text()


def test_what_the_superlink_answers_on_its_own_port_the_gateway_refuses_without_asking_it(running: Running) -> None:
    heard = running.heard("/v1/control/list-runs")
    assert running.post("/v1/control/list-runs", port=running.private) == 200
    assert running.heard("/v1/control/list-runs") == heard + 1
    assert running.post("/v1/runtime/acquire-task", port=running.private) == 401
    assert running.post(CALL, port=running.private) == 401
    assert running.post(CALL) == 401
    before = running.log.read_text()
    for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/v1/runtime/get-nodes", "/docs", "/health"):
        assert running.post(path) == 403
    assert running.log.read_text() == before


@pytest.mark.parametrize("line", REFUSED)
def test_no_other_request_line_reaches_the_superlink(running: Running, line: str) -> None:
    before = running.heard("/v1/")
    head = f"{line}\r\nHost: a\r\nConnection: close\r\nContent-Type: {PROTOBUF_MEDIA_TYPE}\r\nContent-Length: 0\r\n\r\n"
    statuses = running.answers(head.encode())
    assert all(400 <= status < 500 or status == 505 for status in statuses), statuses
    assert running.heard("/v1/") == before


@pytest.mark.parametrize("line", FORWARDED)
def test_each_call_of_a_node_reaches_the_superlink(running: Running, line: str) -> None:
    assert running.post(line.split()[1]) == 401


HIDDEN = b"POST /v1/control/list-runs HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
START = f"POST {CALL} HTTP/1.1\r\nHost: a\r\nContent-Type: {PROTOBUF_MEDIA_TYPE}\r\n".encode()
CHUNKED = b"0\r\n\r\n" + HIDDEN
SMUGGLED = {
    "length and chunks": START + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(CHUNKED) + CHUNKED,
    "chunks and length": START + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + CHUNKED,
    "two lengths": START + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a list of lengths": START + b"Content-Length: 0, %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a signed length": START + b"Content-Length: +0\r\n\r\n" + HIDDEN,
    "another encoding": START + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "two encodings": START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + CHUNKED,
    "a list of encodings": START + b"Transfer-Encoding: identity, chunked\r\n\r\n" + CHUNKED,
    "a space before the colon": START + b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "a folded line": START + b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "an underscore": START + b"Transfer_Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "a bare line feed": START + b"X: a\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "a body that is a request": START + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a request behind a call": START + b"Content-Length: 0\r\n\r\n" + HIDDEN,
    "a request behind chunks": START + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "an upgrade": START + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
}


@pytest.mark.parametrize("sent", SMUGGLED.values(), ids=SMUGGLED)
def test_no_request_comes_through_inside_another(running: Running, sent: bytes) -> None:
    before = running.heard("/v1/control")
    end = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    statuses = running.answers(sent + end)
    assert statuses
    assert all(400 <= status < 502 for status in statuses), statuses
    assert running.heard("/v1/control") == before


def test_a_chunk_of_five_mebibytes_passes_and_a_body_over_the_limit_does_not(running: Running) -> None:
    chunk = bytes(5_242_880 + 4096)
    assert running.post("/v1/fleet/push-object", chunk) in {400, 401}
    assert running.post("/v1/fleet/push-messages", chunk) in {400, 401}
    before = running.heard("/v1/")
    assert running.post("/v1/fleet/get-run", chunk) == 413
    too_long = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: a\r\nContent-Length: {17 << 20}\r\n\r\n"
    assert running.answers(too_long.encode()) == [413]
    assert running.heard("/v1/") == before


def test_one_address_has_so_many_connections_and_one_more_is_told_to_come_again(running: Running) -> None:
    context = ssl.create_default_context(cafile=str(running.made.ca))
    with contextlib.ExitStack() as held:
        for _ in range(64):
            plain = held.enter_context(socket.create_connection(("127.0.0.1", running.public), timeout=20))
            tls = held.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1"))
            tls.sendall(START + b"Content-Length: 9\r\n\r\n")
        assert waited(lambda: running.post(CALL) == 503, 10)
    assert waited(lambda: running.post(CALL) == 401, 10)


def test_all_ports_but_the_public_one_are_on_loopback(running: Running) -> None:
    listening = [
        (line.split()[1].split(":")[0], int(line.split()[1].split(":")[1], 16))
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    for port in (running.private, running.health):
        assert {address for address, one in listening if one == port} == {"0100007F"}


def test_the_health_page_is_the_gateways_own_and_on_its_own_port(running: Running) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    assert opener.open(f"http://127.0.0.1:{running.health}/health", timeout=10).read() == b"ok\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        opener.open(f"http://127.0.0.1:{running.health}{CALL}", data=b"", timeout=10)


def test_a_renewed_certificate_is_shown_after_a_hangup_signal(running: Running) -> None:
    def serial() -> int:
        pem = ssl.get_server_certificate(("127.0.0.1", running.public))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    before = serial()
    renewed = renew_certificate(running.made.coordinator, now=NOW, new_key=True)
    assert serial() == before
    running.nginx.send_signal(signal.SIGHUP)
    assert waited(lambda: serial() == renewed.serial_number, 20)
    assert running.post(CALL) == 401


def test_old_tls_is_refused(running: Running) -> None:
    context = ssl.create_default_context(cafile=str(running.made.ca))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", running.public), timeout=10) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_the_log_is_one_object_a_line_and_bodies_leave_no_file(running: Running) -> None:
    running.post("/v1/fleet/push-object", b"a secret body" * 100_000)
    folder = running.made.coordinator / "gateway"
    lines = [json.loads(line) for line in (folder / "access.log").read_text().splitlines()]
    assert {"address", "request", "status", "superlink_status"} <= set(lines[-1])
    assert "a secret body" not in (folder / "access.log").read_text()
    assert [path for path in folder.glob("unused-*/**/*") if path.is_file()] == []


def test_a_superlink_with_another_certificate_is_not_believed(
    running: Running, tmp_path: Path, small_partner: Path
) -> None:
    other = found_and_enrol(tmp_path, small_partner, "127.0.0.1:1")
    public, health = free_port(), free_port()
    planned = plan_gateway(
        other.coordinator, listen=f"127.0.0.1:{public}", superlink=f"127.0.0.1:{running.private}", health_port=health
    )
    assert "proxy_ssl_verify on" in configuration(planned)
    before = running.heard("/v1/")
    with program(tmp_path, *nginx_command(write_gateway(planned))) as (nginx, log):
        stranger = Running(other, public, running.private, health, running.log, nginx)
        assert waited(lambda: _listens(public), 10), log.read_text()
        assert stranger.post(CALL) == 502
        assert "certificate verify" in log.read_text()
    assert running.heard("/v1/") == before


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
