"""Founding a site: from a coordinator's federation file and the partner's own data to a site folder and an enrolment.

In this order, and nothing is made before all checks have passed:
1. the federation file is whole and has the fingerprint that the coordinator's operator read out (or is believed at
   first sight, if the partner says so; which of the two is kept in `trust.json`);
2. its CA certificate is valid now, and its protocol is this package's;
3. the site's folder is new or empty;
4. catalogue and data are valid, the catalogue has the federation's number of items, the partner enough users;
5. the feature bundle, if one is given, is the federation's (`client.feature_copy`).

Then `client.site.enrol` makes the site, and its node gets a key (`client.node_key`). `enrolment.json` is written last:
a folder without it was cut short, nobody has seen its keys, and it may be removed. What fails is taken away again.
The time is an argument.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from client.feature_copy import checked_bundle, install_features, require_items
from client.node_key import create_node_key
from client.policy import Policy
from client.rotation import signing_key
from client.site import Site, SiteConfig, enrol
from mmrec_model.config_reader import parse_config
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.data.dataset import PartnerDataset, open_partner
from mmrec_model.enrolment_file import ENROLMENT, PARTNER_NAME, EnrolmentFile, sign_enrolment
from mmrec_model.errors import ConfigError, DataError, ProtocolError, UsageError
from mmrec_model.federation_file import (
    FEDERATION,
    FederationFile,
    ca_certificate,
    read_federation,
    require_fingerprint,
    require_valid,
)
from mmrec_model.installed_code import code_digest
from mmrec_model.privacy.files import file_faults
from mmrec_model.protocol import PROTOCOL_VERSION
from mmrec_model.storage import write_atomically

TRUST: Final = "trust.json"
FEATURES: Final = "features"
_FOLDER_MODE: Final = 0o700
_NONCE_BYTES: Final = 16
Trusted = Literal["fingerprint", "first_use"]


@dataclass(frozen=True)
class Application:
    """What a partner brings.

    Attributes:
        name: of the partner.
        data: its folder in partner format.
        catalogue: folder with the federation's `items`; often the same.
        policy: its limits.
        features: the federation's bundle; None to install it later.
    """

    name: str
    data: Path
    catalogue: Path
    policy: Policy
    features: Path | None = None


def trust(path: Path, fingerprint: str | None, *, first_use: bool, now: datetime) -> tuple[FederationFile, Trusted]:
    """Read a federation file and believe it: checks 1 and 2 of the module.

    Args:
        path: the file as it came.
        fingerprint: as the coordinator's operator read it out; None only with `first_use`.
        first_use: believe the file as it is.
        now: the time.

    Raises:
        UsageError: neither, or both.
        TrustError: the file is forged, another one than was compared, or its CA certificate is not valid now.
        ProtocolError: the federation speaks another version of the protocol.
    """
    if (fingerprint is None) != first_use:
        raise UsageError(
            "a fingerprint and --trust-on-first-use are both given"
            if first_use
            else "the federation file cannot be believed without its fingerprint",
            remedy="Ask the coordinator's operator for the fingerprint, not by the road on which the file came",
        )
    file = read_federation(path)
    if fingerprint is not None:
        require_fingerprint(file, fingerprint)
    require_valid(ca_certificate(file), now, whose="the CA's")
    if file.protocol_version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the federation speaks protocol {file.protocol_version}, this package {PROTOCOL_VERSION}",
            remedy="Install the release of mmrec that the coordinator uses",
        )
    return file, "first_use" if first_use else "fingerprint"


def founding_policy(federation: FederationFile, *, epsilon: float, delta: float, cohort: int = 2) -> Policy:
    """The limits of a new site: those of `Policy`, and tighter ones where the federation file allows it.

    No metrics and no run without noise, the federation's feature bundle alone, the package that is installed now alone,
    and never alone in an aggregate.

    Args:
        federation: what the site joins.
        epsilon: for the whole life of the data set.
        delta: likewise.
        cohort: partners that an aggregate must hold.

    Raises:
        ConfigError: a value is out of range.
    """
    limits: dict[str, object] = {
        "max_epsilon": epsilon,
        "max_delta": delta,
        "minimum_cohort": cohort,
        "allowed_metrics": [],
        "allow_without_privacy": False,
        "allowed_features": [federation.features_digest],
        "allowed_code": [code_digest()],
    }
    return parse_config(Policy, limits, source="the new policy")


def check_application(root: Path, federation: FederationFile, application: Application) -> PartnerDataset:
    """The partner's data, after checks 3 to 5 of the module; nothing is written.

    Raises:
        UsageError: the name cannot be that of a deployed partner.
        DataError: data or catalogue cannot be used, or are not those of the federation.
        ConfigError: the folder is not empty, or too few users for the policy or for its delta.
        FeatureError: the bundle is not the federation's.
    """
    if not re.fullmatch(PARTNER_NAME, application.name):
        raise UsageError(
            f"{application.name[:80]!r} cannot be the name of a partner",
            remedy="Take 1 to 64 letters, digits, dots, dashes or underscores, the first a letter or digit",
        )
    _require_empty(root)
    catalogue = open_catalogue(application.catalogue)
    if len(catalogue) != federation.items:
        raise DataError(
            f"the catalogue has {len(catalogue)} items, the federation's has {federation.items}",
            remedy="Name the folder of the federation's catalogue with --catalogue",
        )
    if application.features is not None:
        bundle = checked_bundle(application.features, digest=federation.features_digest, signer=federation.public_key)
        require_items(bundle, catalogue.item_ids)
    dataset = open_partner(application.data, catalogue=catalogue)
    users, policy = len(dataset), application.policy
    if users < policy.minimum_users:
        raise ConfigError(
            f"the data has {users} users, the least is {policy.minimum_users}", remedy="Join with a larger data set"
        )
    if policy.max_delta >= 1.0 / users:
        raise ConfigError(
            f"delta {policy.max_delta:g} is not below one in {users} users", remedy="Give a smaller --delta"
        )
    return dataset


def found_site(
    root: Path, federation: FederationFile, trusted: Trusted, application: Application, *, now: datetime
) -> tuple[EnrolmentFile, PartnerDataset]:
    """Make the site and its enrolment; returns it with the data that were checked.

    Args:
        root: the site's folder, new or empty.
        federation: believed, see `trust`.
        trusted: why.
        application: what the partner brings.
        now: the time.

    Raises:
        UsageError, ConfigError, DataError, FeatureError: see `check_application`.
        LedgerFault: a file cannot be written.
    """
    dataset = check_application(root, federation, application)
    settings = SiteConfig(
        name=application.name,
        data=str(application.data.resolve()),
        catalogue=str(application.catalogue.resolve()),
        features=FEATURES,
        users=len(dataset),
        coordinator_key=federation.coordinator_key,
    )
    with _all_or_nothing(root):
        if application.features is not None:
            install_features(
                application.features,
                root / FEATURES,
                digest=federation.features_digest,
                signer=federation.public_key,
                item_ids=dataset.catalogue.item_ids,
            )
        site = enrol(root, settings, application.policy)
        file = _enrolment(site, federation, create_node_key(root, application.name))
        write_atomically(root / FEDERATION, federation.to_bytes())
        stamp = now.astimezone(UTC).isoformat(timespec="seconds")
        record = {"federation": federation.digest, "trusted": trusted, "at": stamp}
        write_atomically(root / TRUST, json.dumps(record, indent=1).encode() + b"\n")
        write_atomically(root / ENROLMENT, file.to_bytes())
    return file, dataset


def _enrolment(site: Site, federation: FederationFile, node_key: str) -> EnrolmentFile:
    with site.open_ledger() as ledger:
        opening = ledger.signed_head(secrets.token_hex(_NONCE_BYTES))
    return sign_enrolment(
        opening, signing_key(site.root), federation=federation.digest, users=site.config.users, node_key=node_key
    )


def _require_empty(root: Path) -> None:
    if not root.exists():
        return
    if not root.is_dir():
        raise ConfigError(f"{root} is no folder", remedy="Name a new folder for the site")
    if (root / ENROLMENT).exists():
        raise ConfigError(
            f"{root} is a site already", remedy="Its keys and its ledger are kept; another data set is another site"
        )
    if any(root.iterdir()):
        raise ConfigError(
            f"{root} is not empty, and its founding never ended",
            remedy="Name a new folder; data may lie anywhere else. What is left of one cut short may be removed",
        )


@contextmanager
def _all_or_nothing(root: Path) -> Iterator[None]:
    """Empty the folder again if not all of the site can be made; it was new or empty before."""
    existed = root.exists()
    with file_faults(root):
        root.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    try:
        with file_faults(root):
            yield
    except BaseException:
        for path in root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        if not existed:
            root.rmdir()
        raise
