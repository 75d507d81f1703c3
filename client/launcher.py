"""The partner's own `flwr-clientapp`: answers a message with the code that is installed here, never with the run's.

Flower's SuperExec starts the program `flwr-clientapp` by its name, for every message. A site has this one first on its
PATH (`client.node_programs`). In Flower 1.41 that program unpacks the bundle that came with the run and loads the
ClientApp from it (`flwr/supernode/runtime/run_clientapp.py`). Here
1. the process is confined first (`client.confinement`);
2. the bundle is never unpacked: its digest is compared with the site's policy, and that is all that is done with it;
3. the app is the installed `client.app`, and only after 2;
4. what goes wrong here reaches the coordinator as a fixed sentence; this site's log has the details. The node goes on.
If Flower's program is not built as expected, nothing is answered.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from client.confinement import confine, require_bundle, require_place
from client.policy import read_policy
from mmrec_model.canonical import sha256_hex
from mmrec_model.errors import ConfigError, PolicyRefusal

if TYPE_CHECKING:
    from flwr.app import Context, Message

PROGRAM: Final = "flwr-clientapp"
_FLOWER: Final = "flwr.supernode.runtime.run_clientapp"
_REPLACED: Final = ("install_from_fab", "get_load_client_app_fn", "install_app_dependencies")
logger = logging.getLogger("flwr.mmrec.launcher")


class Gate:
    """What stands in for Flower's unpacking and loading, for one message.

    Args:
        root: the site's folder.
        policy_file: its `policy.toml`.
    """

    def __init__(self, root: Path, policy_file: Path) -> None:
        self._root, self._policy_file = root, policy_file
        self._admitted = False

    def install(self, content: bytes, **_: object) -> None:
        """In place of `install_from_fab`: compares, and writes nothing.

        Raises:
            PolicyRefusal: with a fixed text.
        """
        try:
            digest = require_bundle(read_policy(self._policy_file), content)
        except PolicyRefusal:
            logger.exception("refused the bundle %s of %d bytes", sha256_hex(content), len(content))
            raise
        except Exception:
            logger.exception("the site's policy cannot be used")
            raise _cannot_answer() from None
        self._admitted = True
        logger.info("the bundle %s is allowed; nothing of it is unpacked or run", digest)

    def loader(self, **_: object) -> Callable[..., Callable[..., Message]]:
        """In place of `get_load_client_app_fn`."""
        return self._load

    def refuse_installation(self, *_: object, **__: object) -> None:
        """In place of `install_app_dependencies`.

        Raises:
            ConfigError: always.
        """
        raise _cannot_answer()

    def _load(self, *_: object) -> Callable[..., Message]:
        if not self._admitted:
            raise _cannot_answer()
        try:
            from client.app import app  # noqa: PLC0415 - only behind the gate
        except Exception:
            logger.exception("the installed client cannot be loaded")
            raise _cannot_answer() from None

        def answer(message: Message, context: Context) -> Message:
            try:
                require_place(self._root, context.node_config, context.run_config)
            except PolicyRefusal:
                logger.exception("node config %s, run config %s", dict(context.node_config), dict(context.run_config))
                raise
            return app(message, context)

        return answer


def main() -> None:
    """Answer one message; the words are those of Flower's program.

    Raises:
        ConfigError: `MMREC_SITE` is not set, or Flower's program is another one than expected.
    """
    root = confine()
    sys.argv[0] = PROGRAM
    flower = importlib.import_module(_FLOWER)
    absent = [name for name in _REPLACED if not hasattr(flower, name)]
    if absent:
        raise ConfigError(f"Flower's {_FLOWER} has no {absent[0]}", remedy="Install the flwr that this package names")
    gate = Gate(root, root / "policy.toml")
    for name, own in zip(_REPLACED, (gate.install, gate.loader, gate.refuse_installation), strict=True):
        setattr(flower, name, own)
    from flwr.supernode.cli import flwr_clientapp  # noqa: PLC0415 - after the environment is clean

    flwr_clientapp()


def _cannot_answer() -> ConfigError:
    return ConfigError("this partner cannot answer", remedy="The partner's own log has the details")
