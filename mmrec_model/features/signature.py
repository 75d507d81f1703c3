"""Who made a bundle: the coordinator's detached Ed25519 signature over the digest of its manifest.

The manifest holds the digest of every file, so one signature covers the whole bundle. It lies beside the manifest as
`manifest.sig`, canonical JSON with `key_id` and `signature`, and is no part of the bundle's digest: the same bundle may
be unsigned, or signed by another coordinator. The domain tag keeps it from being shown as a signature of anything else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from mmrec_model.canonical import canonical_json
from mmrec_model.errors import BundleSignatureError, FeatureError
from mmrec_model.features.folder import SIGNATURE, FeatureBundle, open_bundle
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.storage import write_atomically

BUNDLE_DOMAIN: Final = b"mmrec-feature-bundle/v1\0"


def sign_bundle(folder: Path, key: SigningKey) -> None:
    """Sign the bundle in `folder`, after verifying all of its files; an older signature is replaced.

    Raises:
        FeatureError: the bundle is damaged, or the folder cannot be written.
    """
    signature = key.sign(bytes.fromhex(open_bundle(folder).digest), domain=BUNDLE_DOMAIN)
    try:
        write_atomically(folder / SIGNATURE, canonical_json({"key_id": key.public.key_id, "signature": signature}))
    except OSError as error:
        raise FeatureError(
            f"the bundle folder {folder} cannot be written: {error.strerror or error}",
            remedy="Give a folder that this process may write",
        ) from error


def check_signature(folder: Path, bundle: FeatureBundle, trusted: PublicKey) -> None:
    """Refuse a bundle that the owner of the trusted key did not sign.

    Args:
        folder: where the bundle lies; only the signature is read.
        bundle: as it was opened from there.
        trusted: the coordinator's key.

    Raises:
        BundleSignatureError: no signature, an unreadable one, or one of another key or bundle.
    """
    path = folder / SIGNATURE
    if not path.is_file():
        raise _refused(f"the feature bundle {bundle.digest[:12]} is not signed", trusted)
    try:
        signature = json.loads(path.read_bytes())["signature"]
        verified = trusted.verifies(signature, bytes.fromhex(bundle.digest), domain=BUNDLE_DOMAIN)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _refused(f"{SIGNATURE} of bundle {bundle.digest[:12]} cannot be read", trusted) from error
    if not verified:
        raise _refused(f"{SIGNATURE} does not fit bundle {bundle.digest[:12]} and key {trusted.key_id}", trusted)


def _refused(problem: str, trusted: PublicKey) -> BundleSignatureError:
    return BundleSignatureError(
        problem, remedy=f"Install the bundle again as the coordinator with key {trusted.key_id} signed it"
    )
