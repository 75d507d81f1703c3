"""What holds for a process in which the partner's code answers one message, before anything of Flower is loaded.

1. Of its environment only the named variables stay (`KEPT`): no token, password or proxy of who started it.
2. It runs in the site's folder, makes files that nobody else can read, and leaves no memory image when it crashes.
3. The bundle that came with the run is one that the site's policy names (`allowed_bundles`). Its code is never run.
4. The only site it serves is the one that the partner fixed in `MMREC_SITE`; node and run cannot name another.

This is no sandbox: the process has the network and the files of its user. The operator's means for that are a user, a
container or a service unit of its own.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from client.policy import Policy
from mmrec_model.canonical import sha256_hex
from mmrec_model.errors import ConfigError, PolicyRefusal

SITE_VARIABLE: Final = "MMREC_SITE"
KEPT: Final = frozenset(
    {
        *("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ"),
        *("FLWR_HOME", "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "FLWR_TRACING_ENABLED"),
        *("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "FLWR_ENABLE_EVENT_LOG"),
        *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "NO_PROXY", "no_proxy"),
        *(SITE_VARIABLE, "MMREC_CACHE"),
    }
)
ANY: Final = "*"


class BundleRefused(PolicyRefusal):
    """The bundle is not in the policy; the text is the same for every bundle and every site."""

    def __init__(self) -> None:
        super().__init__(
            "bundle", "the run's bundle is not one that this partner allows",
            remedy="Give the partner the bundle's digest, to list under allowed_bundles",
        )  # fmt: skip


class PlaceRefused(PolicyRefusal):
    """Node or run name another site."""

    def __init__(self) -> None:
        super().__init__(
            "place", "the node or the run names a site that is not this partner's", remedy="Name none in the run"
        )


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a process of the partner keeps."""
    return {name: value for name, value in environment.items() if name in KEPT}


def confine() -> Path:
    """Put this process under rules 1 and 2 of the module; the site's folder.

    Raises:
        ConfigError: `MMREC_SITE` names no absolute folder.
    """
    root = Path(os.environ.get(SITE_VARIABLE, ""))
    if not root.is_absolute() or not root.is_dir():
        raise ConfigError(
            f"{SITE_VARIABLE} does not name the site's folder", remedy="Start the node with `mmrec site join`"
        )
    kept = clean_environment(os.environ)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(root)
    return root


def require_bundle(policy: Policy, content: bytes) -> str:
    """The digest of a bundle that the policy allows: SHA-256 of the bytes as they came.

    Raises:
        BundleRefused: it does not.
    """
    digest = sha256_hex(content)
    if ANY not in policy.allowed_bundles and digest not in policy.allowed_bundles:
        raise BundleRefused
    return digest


def require_place(root: Path, node_config: Mapping[str, object], run_config: Mapping[str, object]) -> None:
    """Rule 4 of the module.

    Args:
        root: the site's folder, which the partner fixed.
        node_config: of the SuperNode; must name it.
        run_config: of the run; may not name a site.

    Raises:
        PlaceRefused: otherwise.
    """
    named = node_config.get("site")
    own = isinstance(named, str) and Path(named).is_absolute() and Path(named).resolve() == root.resolve()
    if not own or "site" in run_config:
        raise PlaceRefused
