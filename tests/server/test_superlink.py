"""The SuperLink is started closed: loopback, TLS, node login, the executors' secret, nothing told to anybody."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

import pytest
import typer
from flwr.supercore.cli.flower_superexec import _parse_args as superexec_arguments
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink as superlink_arguments
from typer.testing import CliRunner

from mmrec_model.errors import ConfigError, UsageError
from mmrec_model.federation_file import FederationFile
from mmrec_model.flower_environment import quiet_environment
from server import federation_cli, superlink
from server.superlink import become, require_reachable, superexec_command, superlink_command

Founded = tuple[Path, FederationFile]
FOLDER = Path("/c")


def read(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    return parser.parse_args(words[1:])


def test_flowers_own_parser_reads_the_superlinks_words_as_they_are_meant() -> None:
    read_back = read(superlink_arguments(), superlink_command(FOLDER, port=9000, health_port=9001))
    assert (read_back.host, read_back.port, read_back.health_server_address) == ("127.0.0.1", 9000, "127.0.0.1:9001")
    assert (read_back.ssl_ca_certfile, read_back.ssl_certfile) == ("/c/ca.crt", "/c/server.crt")
    assert (read_back.ssl_keyfile, read_back.superexec_auth_secret_file) == ("/c/server.key", "/c/superexec.secret")
    assert (read_back.isolation, read_back.database) == ("process", "/c/state.db")
    assert read_back.enable_supernode_auth
    assert not read_back.insecure


def test_flowers_own_parser_reads_the_superexecs_words_as_they_are_meant() -> None:
    read_back = read(superexec_arguments(), superexec_command(FOLDER, port=9000))
    assert (read_back.runtime_api_address, read_back.root_certificates) == ("127.0.0.1:9000", "/c/ca.crt")
    assert read_back.superexec_auth_secret_file == str(FOLDER / "superexec.secret")
    assert not read_back.insecure


@pytest.mark.parametrize("command", [superlink_command, superexec_command])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "localhost", "fl.example.org"])  # noqa: S104
def test_an_address_that_others_reach_is_refused(command: object, host: str) -> None:
    with pytest.raises(UsageError, match="others reach its Control"):
        command(FOLDER, host=host)


@pytest.mark.parametrize("ports", [{"port": 0}, {"port": 65536}, {"port": 9000, "health_port": 9000}])
def test_a_port_that_cannot_be_one_is_refused(ports: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="port"):
        superlink_command(FOLDER, **ports)


def test_flower_reads_every_variable_of_the_quiet_environment() -> None:
    import flwr

    source = "".join(path.read_text() for path in Path(flwr.__file__).parent.rglob("*.py"))
    assert [name for name in quiet_environment() if name not in source] == []


def test_a_certificate_without_loopback_is_refused_and_a_founded_one_has_it(
    founded: Founded, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_reachable(founded[0])
    monkeypatch.setattr(superlink, "names_of", lambda _: ["fl.example.org"])
    with pytest.raises(ConfigError, match=r"does not name 127\.0\.0\.1"):
        require_reachable(founded[0])


def test_the_printed_line_is_the_command_with_its_environment(founded: Founded) -> None:
    app = typer.Typer()
    federation_cli.register(app)
    for name, command in (("superlink", superlink_command), ("superexec", superexec_command)):
        done = CliRunner().invoke(app, ["federation", name, str(founded[0]), "--port", "9000", "--print"])
        words = shlex.split(done.stdout)
        assert words[-len(command(founded[0], port=9000)) :] == command(founded[0], port=9000)
        assert "FLWR_TELEMETRY_ENABLED=0" in words


def test_becoming_a_program_hands_over_words_and_a_quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(os, "execve", lambda *given: seen.extend(given))
    monkeypatch.setattr(os, "umask", seen.append)
    become(["flower-superlink", "--port", "1"])
    mask, path, words, environment = seen
    assert (mask, Path(path).name, words[1:]) == (0o077, "flower-superlink", ["--port", "1"])
    assert quiet_environment().items() <= environment.items()


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="flower-nothing is not installed"):
        become(["flower-nothing"])
