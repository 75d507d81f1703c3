"""The command lines of Flower's SuperLink and SuperExec beside a founded folder, hardened.

Read in flwr 1.41 (`superlink/cli/flower_superlink.py`, `supercore/cli/flower_superexec.py`):

1. The SuperLink listens on loopback alone: beside the Fleet API its port serves the Runtime API, and the Control API,
   which knows no login. Partners reach the Fleet API through the gateway (`server.gateway`).
2. TLS with the founded certificate; nodes log in with enrolled keys; state in a file that survives a restart.
3. `--isolation process` with the secret: only who holds `superexec.secret` may take tasks. In the other mode Flower
   ignores the secret.
4. Nothing is installed at run time, nothing is reported to anybody (`quiet_environment`).
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NoReturn

from mmrec_model.errors import ConfigError, UsageError
from mmrec_model.federation_file import is_ip
from mmrec_model.flower_environment import quiet_environment
from server.certificates import names_of
from server.founding import (
    CA_CERTIFICATE,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    SUPEREXEC_SECRET,
    read_certificate,
    read_founded,
)
from server.ports import LOOPBACK, SUPERLINK_PORT

__all__ = [
    "LOOPBACK",
    "STATE",
    "SUPERLINK_PORT",
    "become",
    "joined",
    "printed",
    "quiet_environment",
    "require_loopback",
    "require_ports",
    "require_reachable",
    "superexec_command",
    "superlink_command",
]

STATE: Final = "state.db"
"""The SuperLink's database in the coordinator's folder; it holds updates in clear until they are averaged."""
_LAST_PORT: Final = 65535


def superlink_command(
    folder: Path, *, host: str = LOOPBACK, port: int = SUPERLINK_PORT, health_port: int | None = None
) -> list[str]:
    """The words that start the SuperLink; the first is the program's name.

    Args:
        folder: the coordinator's, founded.
        host: a loopback address.
        port: of the Control, Runtime and Fleet APIs.
        health_port: of the gRPC health service, on `host` too; none for none.

    Raises:
        UsageError: the host is not loopback, or a port cannot be one or is given twice.
    """
    require_loopback(host)
    require_ports(port, health_port)
    words = ["flower-superlink"]
    words += ["--ssl-ca-certfile", str(folder / CA_CERTIFICATE)]
    words += ["--ssl-certfile", str(folder / SERVER_CERTIFICATE), "--ssl-keyfile", str(folder / SERVER_KEY)]
    words += ["--enable-supernode-auth", "--database", str(folder / STATE)]
    words += ["--isolation", "process", "--superexec-auth-secret-file", str(folder / SUPEREXEC_SECRET)]
    words += ["--host", host, "--port", str(port), "--disable-runtime-dependency-installation"]
    return [*words, *_health(host, health_port)]


def superexec_command(
    folder: Path, *, host: str = LOOPBACK, port: int = SUPERLINK_PORT, health_port: int | None = None
) -> list[str]:
    """The words that start the coordinator's SuperExec, which runs the ServerApp.

    Args:
        folder: the coordinator's, founded; its certificate must name `host`.
        host: where the SuperLink listens, a loopback address.
        port: of the SuperLink.
        health_port: of the SuperExec's own gRPC health service, on `host` too; none for none.

    Raises:
        UsageError: the host is not loopback, or a port cannot be one or is given twice.
    """
    require_loopback(host)
    require_ports(port, health_port)
    words = ["flower-superexec", "--runtime-api-address", joined(host, port)]
    words += ["--root-certificates", str(folder / CA_CERTIFICATE)]
    words += ["--superexec-auth-secret-file", str(folder / SUPEREXEC_SECRET)]
    return [*words, *_health(host, health_port)]


def require_reachable(folder: Path) -> None:
    """Refuse a folder whose SuperLink its own SuperExec would not believe.

    Raises:
        ConfigError: it is not founded, or its certificate does not name 127.0.0.1.
    """
    read_founded(folder)
    if LOOPBACK not in names_of(read_certificate(folder / SERVER_CERTIFICATE)):
        raise ConfigError(
            f"the certificate of {folder} does not name {LOOPBACK}, where the SuperLink's own programs reach it",
            remedy=f"mmrec federation renew {folder}",
        )


def printed(words: Sequence[str]) -> str:
    """The command with its environment as one line for a shell."""
    return shlex.join(["env", *(f"{name}={value}" for name, value in quiet_environment().items()), *words])


def become(words: Sequence[str]) -> NoReturn:
    """Turn this process into the program: quiet environment, and new files readable by their owner alone.

    Raises:
        ConfigError: the program is not installed.
    """
    beside = Path(sys.executable).parent
    search = f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    path = shutil.which(words[0], path=search)
    if path is None:
        raise ConfigError(f"{words[0]} is not installed", remedy="Install mmrec with its dependencies")
    os.umask(0o077)
    os.execve(path, [path, *words[1:]], {**os.environ, **quiet_environment(), "PATH": search})  # noqa: S606


def require_loopback(host: str) -> None:
    """Refuse an address at which others could reach the SuperLink.

    Raises:
        UsageError: it is none of 127.0.0.0/8 and ::1.
    """
    if not is_ip(host) or not ip_address(host).is_loopback:
        raise UsageError(
            f"the SuperLink would listen at {host}, where others reach its Control and Runtime APIs",
            remedy=f"Keep it at {LOOPBACK}; partners connect to the gateway",
        )


def require_ports(*ports: int | None) -> None:
    """Refuse numbers that are no ports, and one that is given twice; none is left out.

    Raises:
        UsageError: see above.
    """
    given = [port for port in ports if port is not None]
    wrong = next((port for port in given if not 1 <= port <= _LAST_PORT), None)
    if wrong is not None:
        raise UsageError(f"{wrong} is no port: ports are 1 to {_LAST_PORT}", remedy="Give another")
    if len(set(given)) < len(given):
        raise UsageError(f"the ports {', '.join(map(str, given))} are not all different", remedy="Give others")


def joined(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _health(host: str, port: int | None) -> list[str]:
    return [] if port is None else ["--health-server-address", joined(host, port)]
