"""A site's own copy of the federation's feature bundle.

A bundle is installed if, in this order:
1. every file has the digest that the manifest names, and the manifest that of the federation file;
2. the coordinator's key in force signed it;
3. its items are those of the site's catalogue, in the same order: an update would otherwise speak of other items;
4. the copy, read back from the site's disk, passes 1 and 2 again.

It is copied beside its place and put there in one step. A bundle that lies there already is replaced only on request;
where it is the same one, its signature alone is taken over, which is needed after the coordinator has a new key.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from mmrec_model.errors import DataError, FeatureError
from mmrec_model.features.folder import MANIFEST, SIGNATURE, FeatureBundle, open_bundle
from mmrec_model.features.signature import check_signature
from mmrec_model.privacy.keys import PublicKey
from mmrec_model.storage import fsync_folder, write_atomically


class Outcome(StrEnum):
    """What an installation did."""

    INSTALLED = "is installed"
    REPLACED = "has taken the place of another"
    SIGNATURE = "was installed; its signature is taken over"


def install_features(
    source: Path,
    target: Path,
    *,
    digest: str,
    signer: PublicKey,
    item_ids: Sequence[str],
    replace: bool = False,
) -> Outcome:
    """Copy a bundle into a site.

    Args:
        source: folder of the bundle, with the coordinator's signature.
        target: where the site keeps it.
        digest: of the bundle, as the federation file says.
        signer: the coordinator's key in force.
        item_ids: of the site's catalogue, in order.
        replace: take the place of another bundle, which is removed.

    Raises:
        FeatureError: 1 or 4 of the module, another bundle is installed, or the folder cannot be written.
        BundleSignatureError: 2.
        DataError: 3.
    """
    bundle = checked_bundle(source, digest=digest, signer=signer)
    require_items(bundle, item_ids)
    present = target.exists()
    try:
        if present and _digest_of(target) == digest:
            write_atomically(target / SIGNATURE, (source / SIGNATURE).read_bytes())
            return Outcome.SIGNATURE
        if present and not replace:
            raise FeatureError(
                f"{target} holds another feature bundle, or a damaged one", remedy="Add --replace to remove it"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            _copy(source, Path(folder) / "new", bundle)
            checked_bundle(Path(folder) / "new", digest=digest, signer=signer)
            if present:
                target.rename(Path(folder) / "former")
            (Path(folder) / "new").rename(target)
        fsync_folder(target.parent)
    except OSError as error:
        raise FeatureError(
            f"the bundle cannot be copied to {target}: {error.strerror or error}",
            remedy="Free space, or give the site a folder that this process may write",
        ) from error
    return Outcome.REPLACED if present else Outcome.INSTALLED


def checked_bundle(source: Path, *, digest: str, signer: PublicKey) -> FeatureBundle:
    """Open a bundle after checks 1 and 2 of the module.

    Raises:
        FeatureError: it is damaged, or not the federation's.
        BundleSignatureError: the coordinator did not sign it.
    """
    bundle = open_bundle(source)
    if bundle.digest != digest:
        raise FeatureError(
            f"{source} holds bundle {bundle.digest[:12]}, the federation uses {digest[:12]}",
            remedy="Get the bundle that belongs to this federation from the coordinator",
        )
    check_signature(source, bundle, signer)
    return bundle


def require_items(bundle: FeatureBundle, item_ids: Sequence[str]) -> None:
    """Refuse a catalogue whose items are not those of the bundle, in the same order.

    Raises:
        DataError: naming the first place where they differ.
    """
    if bundle.item_ids == tuple(item_ids):
        return
    pairs = zip(bundle.item_ids, item_ids, strict=False)
    place = next((place for place, (theirs, own) in enumerate(pairs) if theirs != own), None)
    raise DataError(
        f"the catalogue has {len(item_ids)} items, the feature bundle {len(bundle.item_ids)}"
        + ("" if place is None else f"; item {place + 1} is the first that differs"),
        remedy="Use the federation's catalogue as it is: the same items in the same order",
    )


def _copy(source: Path, target: Path, bundle: FeatureBundle) -> None:
    for name in (*bundle.manifest["files"], MANIFEST, SIGNATURE):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _digest_of(folder: Path) -> str | None:
    """The digest of an installed bundle; None if it is damaged."""
    try:
        return open_bundle(folder).digest
    except FeatureError:
        return None
