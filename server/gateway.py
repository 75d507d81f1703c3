"""The gateway: what nginx lets through from a partner to the SuperLink, and its whole configuration.

Flower's SuperLink (1.41) serves three APIs on one port: Fleet, for the partners' nodes; Runtime, which hands out tasks;
and Control, which registers nodes, starts and stops runs, and knows no login. The gateway stands between:

1. A request line passes only if it is, byte for byte, `POST PATH HTTP/1.1` with a path of `FLEET_CALLS`
   (`is_forwarded`). There is no other rule: no query, no other spelling of a path, no other form of target. nginx
   answers the rest with 403 (or 400 where it is no HTTP), and the SuperLink hears nothing of it.
2. The pattern that `is_forwarded` applies is the one that the configuration holds.
3. TLS 1.2 or 1.3 on both sides; the SuperLink's certificate must come from the federation's CA.
4. Bodies lie in memory and never in a file or a log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mmrec_model.errors import ConfigError, TrustError, UsageError
from mmrec_model.federation_file import is_ip, split_address
from mmrec_model.privacy.files import file_faults
from mmrec_model.storage import write_atomically
from server.certificates import names_of
from server.founding import CA_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY, read_certificate, read_founded
from server.ports import GATEWAY_HEALTH_PORT, LOOPBACK, SUPERLINK_PORT
from server.superlink import joined, require_loopback, require_ports

GATEWAY: Final = "gateway"
CONFIGURATION: Final = "nginx.conf"
_KIB: Final = 1 << 10
_MIB: Final = 1 << 20
FLEET_CALLS: Final[Mapping[str, int]] = {
    "/v1/fleet/activate-node": 64 * _KIB,
    "/v1/fleet/deactivate-node": 64 * _KIB,
    "/v1/fleet/send-node-heartbeat": 64 * _KIB,
    "/v1/fleet/pull-messages": 64 * _KIB,
    "/v1/fleet/get-run": 64 * _KIB,
    "/v1/fleet/get-fab": 64 * _KIB,
    "/v1/fleet/pull-object": 64 * _KIB,
    "/v1/fleet/confirm-message-received": 64 * _KIB,
    "/v1/fleet/push-messages": 8 * _MIB,
    "/v1/fleet/push-object": 16 * _MIB,
}
"""What a node that logs in with an enrolled key calls, and the most bytes of one request's body.

Flower cuts arrays into chunks of 5 MiB, each an object of its own; `push-messages` carries the list of objects. The two
other Fleet calls, register-node and unregister-node, are for nodes without an enrolled key.
"""
REQUEST_LINE: Final = "POST (?:" + "|".join(FLEET_CALLS) + r") HTTP/1\.1"
"""The allow-list as a regular expression, the same in Python and PCRE."""
_TEMPLATES: Final = Path(__file__).parent / "templates"
_UNQUOTABLE: Final = re.compile(r"[$\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Gateway:
    """Where the gateway listens and what is behind it.

    Attributes:
        folder: the coordinator's.
        listen: host and port for partners.
        superlink: host and port of the SuperLink, loopback.
        health_port: of the gateway's own health page, on 127.0.0.1.
        upstream_name: the name that the SuperLink's certificate must bear.
    """

    folder: Path
    listen: tuple[str, int]
    superlink: tuple[str, int]
    health_port: int
    upstream_name: str


def is_forwarded(request_line: str) -> bool:
    """Whether a request with this first line reaches the SuperLink.

    Args:
        request_line: as it came, without the line's end; nginx's `$request`.
    """
    return re.fullmatch(REQUEST_LINE, request_line) is not None


def plan_gateway(
    folder: Path,
    *,
    listen: str,
    superlink: str = f"{LOOPBACK}:{SUPERLINK_PORT}",
    health_port: int = GATEWAY_HEALTH_PORT,
) -> Gateway:
    """A gateway for a founded federation.

    Args:
        folder: the coordinator's.
        listen: HOST:PORT for partners; the host is a name of the server's certificate, or 0.0.0.0 or [::] for every
            address of the machine.
        superlink: HOST:PORT of the SuperLink, loopback.
        health_port: of the gateway's own health page.

    Raises:
        ConfigError: the folder is not founded, or its path cannot be written into a configuration.
        UsageError: an address is none, the SuperLink's is not loopback, a port is given twice, or partners would not
            accept the certificate at `listen`.
    """
    read_founded(folder)
    place = folder.resolve()
    if _UNQUOTABLE.search(str(place)):
        raise ConfigError(f"nginx cannot name {str(place)!r}: a dollar or control character", remedy="Move the folder")
    outside, inside = _address(listen), _address(superlink)
    require_loopback(inside[0])
    require_ports(outside[1], inside[1], health_port)
    names = names_of(read_certificate(folder / SERVER_CERTIFICATE))
    if outside[0] not in names and not _is_any_address(outside[0]):
        raise UsageError(
            f"partners would refuse {outside[0]}: the certificate names {', '.join(names)}",
            remedy=f"Give one of these, or add it: mmrec federation renew {folder} --address-name {outside[0]}",
        )
    return Gateway(place, outside, inside, health_port, _name_to_verify(names))


def configuration(gateway: Gateway) -> str:
    """The text of nginx's configuration; equal gateways give equal text."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - no HTML; paths are quoted by `_quoted`
    )
    environment.filters["quoted"] = _quoted
    return environment.get_template("nginx.conf.j2").render(
        request_line=REQUEST_LINE,
        calls=FLEET_CALLS,
        largest_body=max(FLEET_CALLS.values()),
        listen=joined(*gateway.listen),
        superlink=joined(*gateway.superlink),
        health=joined(LOOPBACK, gateway.health_port),
        upstream_name=gateway.upstream_name,
        own=gateway.folder / GATEWAY,
        ca=gateway.folder / CA_CERTIFICATE,
        certificate=gateway.folder / SERVER_CERTIFICATE,
        key=gateway.folder / SERVER_KEY,
    )


def write_gateway(gateway: Gateway) -> Path:
    """Write the configuration to FOLDER/gateway/nginx.conf, in one step; a former one is replaced.

    Returns:
        The path of the file.

    Raises:
        LedgerFault: it cannot be written.
    """
    path = gateway.folder / GATEWAY / CONFIGURATION
    with file_faults(path):
        write_atomically(path, configuration(gateway).encode())
    return path


def nginx_command(path: Path) -> list[str]:
    """The words that start nginx in the foreground with a configuration of `write_gateway`."""
    return ["nginx", "-p", f"{path.parent}/", "-c", str(path), "-e", "stderr"]


def _address(text: str) -> tuple[str, int]:
    try:
        return split_address(text)
    except TrustError as error:
        raise UsageError(error.problem, remedy=error.remedy) from error


def _is_any_address(host: str) -> bool:
    return is_ip(host) and ip_address(host).is_unspecified


def _name_to_verify(names: list[str]) -> str:
    """A name of the certificate; a host name where there is one.

    nginx compares names alone, and takes the common name, which is the first of all, if there are addresses only.
    """
    return next((name for name in names if not is_ip(name)), names[0])


def _quoted(value: object) -> str:
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
