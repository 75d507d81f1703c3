"""The commands and files of a partner's node: what they say, what they may not, and who can read them."""

from __future__ import annotations

import shutil
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client import node_programs
from client.cli import register
from client.node_cli import join
from client.node_key import create_node_key
from mmrec_model.errors import MmrecError, TrustError
from mmrec_model.federation_file import FederationFile
from server.founding import found_federation
from simulations.small_site import SmallSites, make_small_sites


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallSites:
    return make_small_sites(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def federation(small: SmallSites, tmp_path_factory: pytest.TempPathFactory) -> FederationFile:
    folder = tmp_path_factory.mktemp("founded")
    shutil.copy(small.folder / "templates" / "coordinator" / "key.pem", folder / "key.pem")
    return found_federation(
        folder, name="f", address="127.0.0.1:9", names=[], features=small.folder / "features", now=datetime.now(UTC)
    )


@pytest.fixture
def site(small: SmallSites, federation: FederationFile, tmp_path: Path) -> Path:
    root, _ = small.copy_with_coordinator(tmp_path.name)
    (root / "federation.json").write_bytes(federation.to_bytes())
    create_node_key(root, "north")
    return root


def test_the_node_speaks_tls_with_its_key_and_lets_only_its_own_executor_take_messages(
    site: Path, federation: FederationFile
) -> None:
    node_programs.prepare_node(site, federation)
    node, executor = node_programs.node_programs(site, superlink="fl.example.org:8443", port=9123)
    secret = str(site / "node" / "superexec.secret")
    for words in (
        ("--superlink", "fl.example.org:8443"),
        ("--root-certificates", str(site / "node" / "ca.crt")),
        ("--auth-supernode-private-key", str(site / "node.key")),
        ("--isolation", "process"),
        ("--superexec-auth-secret-file", secret),
        ("--host", "127.0.0.1"),
        ("--node-config", f'site="{site}"'),
    ):
        place = node.command.index(words[0])
        assert node.command[place : place + 2] == words
    assert "--insecure" not in node.command
    assert executor.command[1:] == (
        *("--runtime-api-address", "127.0.0.1:9123", "--insecure", "--superexec-auth-secret-file", secret),
    )
    assert "--allow-runtime-dependency-installation" not in (*node.command, *executor.command)


def test_the_nodes_environment_has_the_launcher_first_and_nothing_of_the_callers(
    site: Path, federation: FederationFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", "/evil")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    node_programs.prepare_node(site, federation)
    for program in node_programs.node_programs(site, superlink=federation.address, port=9123):
        found = program.environment
        assert shutil.which("flwr-clientapp", path=found["PATH"]) == str(site / "node" / "bin" / "flwr-clientapp")
        assert (found["HOME"], found["MMREC_SITE"], program.folder) == (str(site), str(site), site)
        assert (found["FLWR_TELEMETRY_ENABLED"], found["CUDA_VISIBLE_DEVICES"]) == ("0", "1")
        assert not {"CLOUD_TOKEN", "PYTHONPATH"} & set(found)


def test_the_secret_is_made_once_and_is_the_sites_alone(site: Path, federation: FederationFile) -> None:
    node_programs.prepare_node(site, federation)
    secret = site / "node" / "superexec.secret"
    first = secret.read_bytes()
    node_programs.prepare_node(site, federation)
    assert (secret.read_bytes(), len(first), stat.S_IMODE(secret.stat().st_mode)) == (first, 32, 0o600)
    assert stat.S_IMODE((site / "node").stat().st_mode) == 0o700


def test_the_program_that_the_executor_finds_is_the_launcher(site: Path, federation: FederationFile) -> None:
    node_programs.prepare_node(site, federation)
    environment = {**node_programs.node_environment(site), "MMREC_SITE": "/no/such/folder"}
    done = subprocess.run(
        [site / "node" / "bin" / "flwr-clientapp"], env=environment, capture_output=True, text=True, check=False
    )
    assert "MMREC_SITE does not name the site's folder" in done.stderr


def test_an_address_without_a_port_is_refused(site: Path) -> None:
    with pytest.raises(TrustError, match="HOST:PORT"):
        node_programs.node_programs(site, superlink="fl.example.org", port=9123)


def test_join_prints_what_it_would_start_and_starts_nothing(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    join(site, port=9123, print_only=True)
    lines = capsys.readouterr().out.splitlines()
    assert "flower-supernode" in lines[-2]
    assert "flower-superexec" in lines[-1]
    assert f"export MMREC_SITE={site}" in lines
    assert not (site / "log" / "node.jsonl").exists()


@pytest.mark.parametrize(
    ("harm", "check"),
    [
        (lambda root: (root / "ledger.jsonl").write_bytes(b"{}\n"), "ledger"),
        (lambda root: (root / "key.pem").chmod(0o644), "secrets"),
        (lambda root: (root / "policy.toml").write_text("max_epsilon = 0\n"), "policy"),
    ],
)
def test_a_site_whose_ledger_keys_or_policy_fail_does_not_join(site: Path, harm: object, check: str) -> None:
    assert callable(harm)
    harm(site)
    with pytest.raises(MmrecError, match=f"failed: .*{check}"):
        join(site, port=9123, print_only=True)
    assert not (site / "node").exists()


def test_the_command_is_there() -> None:
    import typer

    app = typer.Typer()
    register(app)
    assert (
        "--superlink"
        in CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["site", "join", "--help"]).output
    )
