"""The feature bundle of a site that was founded: install it, or first build it from the site's own catalogue.

The digest is the federation file's, the signer the coordinator's key in force in the site's ledger. What is built here
is installed only if it is bit for bit the federation's. If it is not, but every number agrees within
`mmrec_model.features.rebuild.TOLERANCE`, the coordinator's bytes are installed: a run asks for their digest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from client.feature_copy import Outcome, checked_bundle, install_features
from client.site import Site
from mmrec_model.canonical import sha256_hex
from mmrec_model.config import Modality
from mmrec_model.data.catalogue import Catalogue, open_catalogue
from mmrec_model.errors import ConfigError, FeatureError
from mmrec_model.features.bundle import Progress
from mmrec_model.features.folder import MANIFEST, SIGNATURE
from mmrec_model.features.rebuild import TOLERANCE, largest_differences, rebuild_bundle
from mmrec_model.features.signature import check_signature
from mmrec_model.federation_file import FEDERATION, FederationFile, read_federation
from mmrec_model.privacy.keys import PublicKey


@dataclass(frozen=True)
class Rebuilt:
    """What building the bundle from the site's catalogue showed.

    Attributes:
        folder: which of the two is to be installed.
        differences: largest difference of one number by modality; None if the bundles are bit for bit the same.
    """

    folder: Path
    differences: dict[Modality, float] | None


class SiteFeatures:
    """Bundle, catalogue and trust of one site.

    Args:
        root: the site's folder.

    Raises:
        ConfigError: no site, or one that joined no federation.
        TrustError: its federation file is damaged.
    """

    def __init__(self, root: Path) -> None:
        self._site = Site.open(root)
        if not (root / FEDERATION).is_file():
            raise ConfigError(f"{root} has no {FEDERATION}", remedy="Make the site with `mmrec site init`")
        self.federation: FederationFile = read_federation(root / FEDERATION)

    def install(self, source: Path, *, replace: bool = False) -> Outcome:
        """Copy a bundle into the site, see `client.feature_copy`.

        Raises:
            FeatureError, BundleSignatureError, DataError: see there.
        """
        return install_features(
            source,
            self._site.features_folder,
            digest=self.federation.features_digest,
            signer=self._signer,
            item_ids=self._catalogue.item_ids,
            replace=replace,
        )

    def rebuild(
        self,
        source: Path,
        folder: Path,
        *,
        sources: Mapping[Modality, str],
        store: Path,
        progress: Progress | None = None,
    ) -> Rebuilt:
        """Build the bundle from the site's catalogue and compare it with the federation's.

        Args:
            source: the coordinator's bundle; its manifest and signature alone are enough where the two are the same.
            folder: where the new bundle goes.
            sources: of the encoders that are not the embedded ones.
            store: root of the raw vectors.
            progress: see `build_bundle`.

        Raises:
            FeatureError: the two differ by more than rounding, or cannot be compared.
            BundleSignatureError: the coordinator did not sign it.
        """
        digest = self.federation.features_digest
        own = rebuild_bundle(
            self._manifest(source), self._catalogue, folder, sources=sources, store=store, progress=progress
        )
        if own.digest == digest:
            check_signature(source, own, self._signer)
            shutil.copyfile(source / SIGNATURE, folder / SIGNATURE)
            return Rebuilt(folder, None)
        if not (source / "present.npy").exists():
            raise FeatureError(
                f"the bundle built here is {own.digest[:12]}, the federation's {digest[:12]}; its vectors are not here",
                remedy="Get the whole bundle from the coordinator, and compare again",
            )
        differences = largest_differences(checked_bundle(source, digest=digest, signer=self._signer), own)
        worst = max(differences, key=lambda name: differences[name])
        if not differences[worst] <= TOLERANCE:
            raise FeatureError(
                f"the bundle's {worst} vectors differ from those built here by {differences[worst]:.3g}, "
                f"the limit is {TOLERANCE:g}",
                remedy="Ask the coordinator of which catalogue, and by which encoders, the bundle was made",
            )
        return Rebuilt(source, differences)

    def _manifest(self, source: Path) -> dict[str, object]:
        """The manifest of the federation's bundle."""
        digest = self.federation.features_digest
        try:
            content = (source / MANIFEST).read_bytes()
        except OSError as error:
            raise FeatureError(f"{source / MANIFEST} cannot be read", remedy="Name the coordinator's bundle") from error
        if sha256_hex(content) != digest:
            raise FeatureError(
                f"{source} holds bundle {sha256_hex(content)[:12]}, the federation uses {digest[:12]}",
                remedy="Get the bundle that belongs to this federation from the coordinator",
            )
        manifest: dict[str, object] = json.loads(content)
        return manifest

    @cached_property
    def _catalogue(self) -> Catalogue:
        return open_catalogue((self._site.root / self._site.config.catalogue).resolve())

    @cached_property
    def _signer(self) -> PublicKey:
        """The coordinator's key in force: the ledger may have taken over another since the site was founded."""
        with self._site.open_ledger() as ledger:
            return ledger.history.keys.get("server") or self.federation.public_key
