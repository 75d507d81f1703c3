"""Units, container files and rotation say what the package really does: commands, options and places exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from mmrec_model import cli
from server.gateway import nginx_command

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
CONTAINER = ROOT / "deploy" / "container"
MMREC = "/opt/mmrec/bin/mmrec"
FEDERATION = "/srv/mmrec/federation"


def entries(unit: Path) -> dict[str, list[str]]:
    """All values of each key, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def started(unit: Path) -> list[list[str]]:
    found = entries(unit)
    return [shlex.split(line) for line in (*found.get("ExecStartPre", []), *found["ExecStart"])]


def require_command(words: list[str]) -> None:
    """`mmrec` has the command with exactly these options, and as many arguments as are given."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][cli.COMMAND_GROUP]
    app = cli.build_app(EntryPoint(name, place, cli.COMMAND_GROUP) for name, place in declared.items())
    command: Any = typer.main.get_command(app)
    rest = ["9094" if word.startswith("${") else word for word in words]
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, words
        command = command.commands[rest.pop(0)]
    command.make_context("mmrec", rest)


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CONTAINER / "compose.yaml").read_text())
    return found["services"]


def test_there_is_a_unit_for_each_program() -> None:
    assert [unit.name for unit in UNITS] == [
        "mmrec-coordinator.service",
        "mmrec-gateway.service",
        "mmrec-site@.service",
    ]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_commands_of_a_unit_exist_with_their_options(unit: Path) -> None:
    for words in started(unit):
        if words[0] == MMREC:
            require_command(words[1:])
        else:
            folder = Path(FEDERATION, "coordinator", "gateway", "nginx.conf")
            assert [word for word in words[1:] if word not in {"-t", "-q"}] == nginx_command(folder)[1:]


def test_a_command_that_does_not_exist_is_found() -> None:
    with pytest.raises(Exception, match="no-such"):
        require_command(["site", "join", "/srv/mmrec/x", "--no-such"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_confined_and_comes_back(unit: Path) -> None:
    found = entries(unit)
    expected = {
        "KillMode": "control-group",
        "Restart": "always",
        "RestartSec": "30",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "UMask": "0077",
        "LimitCORE": "0",
        "StartLimitIntervalSec": "0",
    }
    assert {key: found[key] for key in expected} == {key: [value] for key, value in expected.items()}
    assert found["User"][0] != "root"
    assert {"MemoryMax", "CPUQuota", "TasksMax", "RestrictAddressFamilies"} <= set(found)
    (writable,) = found["ReadWritePaths"]
    assert writable.startswith("/srv/mmrec/")
    if MMREC in unit.read_text():
        environment = " ".join(found["Environment"]).split()
        assert {"FLWR_TELEMETRY_ENABLED=0", "HF_HUB_OFFLINE=1"} <= set(environment)


def test_nothing_but_its_own_machine_reaches_the_superlink() -> None:
    found = entries(ROOT / "deploy" / "systemd" / "mmrec-coordinator.service")
    assert (found["IPAddressDeny"], found["IPAddressAllow"]) == (["any"], ["localhost"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_a_unit(unit: Path, tmp_path: Path) -> None:
    """With a program that is there in place of ours, which is not; a key that systemd does not know is printed."""
    text = re.sub(r"/opt/mmrec/bin/mmrec|/usr/sbin/nginx", "/bin/true", unit.read_text())
    (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / unit.name], capture_output=True, text=True, check=False
    )
    own = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert (done.returncode, own) == (0, []), done.stderr


def test_the_rotation_concerns_the_gateways_log_and_its_unit() -> None:
    text = (ROOT / "deploy" / "logrotate" / "mmrec").read_text()
    assert f"\n{FEDERATION}/coordinator/gateway/access.log {{\n" in text
    assert "--signal=USR1" in text
    assert "mmrec-gateway.service" in text
    assert re.findall(r"^/\S+", text, re.MULTILINE) == [f"{FEDERATION}/coordinator/gateway/access.log"]


def test_every_container_is_confined() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service["user"].startswith(("0", "root")), name
        assert service.get("privileged", False) is False, name
        assert {"mem_limit", "cpus", "pids_limit"} <= set(service), name


def test_partners_reach_the_gateway_and_nobody_else() -> None:
    found = services()
    networks = yaml.safe_load((CONTAINER / "compose.yaml").read_text())["networks"]
    assert set(found) == {"gateway", "coordinator", "north", "south"}
    assert "networks" not in found["coordinator"]
    assert found["coordinator"]["network_mode"] == "service:gateway"
    for name in ("north", "south"):
        assert found[name]["networks"] == [name]
        assert networks[name] == {"internal": True}
        assert [other for other in found if name in found[other].get("networks", [])] == ["gateway", name]
    assert [name for name, service in found.items() if "ports" in service] == ["gateway"]
    assert found["gateway"]["ports"] == ["8443:8443"]


def test_the_commands_of_the_containers_exist() -> None:
    for name, service in services().items():
        if name == "gateway":
            conf = Path(FEDERATION, "coordinator", "gateway", "nginx.conf")
            assert [*service["entrypoint"], *service["command"]] == nginx_command(conf)
        else:
            require_command(service["command"])


def test_no_container_sees_a_folder_of_another_side() -> None:
    found = services()
    assert not any("federation" in volume for name in ("north", "south") for volume in found[name]["volumes"])
    assert not any("north" in volume for name in ("south", "coordinator") for volume in found[name]["volumes"])
    gateway = {volume.split(":")[0] for volume in found["gateway"]["volumes"]}
    assert {Path(place).name for place in gateway} == {"gateway", "ca.crt", "server.crt", "server.key"}


def test_the_image_is_built_from_the_wheelhouse_alone_and_runs_as_nobody_special() -> None:
    text = (CONTAINER / "Containerfile").read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "FROM python:3.11-slim"
    assert not any(line.startswith(("COPY", "ADD")) for line in lines)
    assert any("--no-index" in line and "sha256sum --check" in line for line in lines)
    assert lines.index("USER 10001:10001") > max(place for place, line in enumerate(lines) if line.startswith("RUN"))
    assert not any(word in line for line in lines for word in ("apt-get", "curl", "https://"))
