"""The key by which a site's node logs in at the coordinator's SuperLink: ECDSA on P-384, as Flower 1.41 wants it.

`flower-supernode --auth-supernode-private-key` reads the private half in OpenSSH's form and without a passphrase; so
the file has mode 0600 and never leaves. The public half goes to the coordinator with the enrolment. It is another key
than the site's own (`key.pem`): a stolen node key can connect, and sign no ledger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mmrec_model.privacy.files import create_file, file_faults
from mmrec_model.privacy.keys import KEY_MODE

NODE_KEY: Final = "node.key"
NODE_PUBLIC_KEY: Final = "node.pub"


def destroy_node_key(root: Path) -> None:
    """Destroy the private half, if there is one: the site's node can no longer log in.

    Raises:
        LedgerFault: `FILE` if it cannot be removed.
    """
    with file_faults(root / NODE_KEY):
        (root / NODE_KEY).unlink(missing_ok=True)


def create_node_key(root: Path, name: str) -> str:
    """Draw a node key and keep both halves.

    Args:
        root: the site's folder.
        name: the partner's, the comment in the public file.

    Returns:
        The public half as OpenSSH writes it, without the comment.

    Raises:
        LedgerFault: `EXISTS`; a key is never overwritten. `FILE` if it cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    create_file(root / NODE_KEY, private, mode=KEY_MODE)
    create_file(root / NODE_PUBLIC_KEY, f"{public} {name}\n".encode(), mode=0o644)
    return public
