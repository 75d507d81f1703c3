"""One partner's deployment: where its data, features, ledger, key and policy lie.

A site is a folder:

    site.toml      name, folders, public number of users
    policy.toml    the partner's own limits (`client.policy`)
    data/          interactions and users in the partner format
    key.pem        the signing key, mode 0600, never leaves (`client.rotation`)
    salt.bin       secret that hides user ids in the data commitment, mode 0600, never leaves
    ledger.jsonl   what was spent (`mmrec_model.privacy.ledger`)
    approvals.jsonl  the operator's decisions about runs (`client.approval`)
    federation.json  the federation that the site joined, as its coordinator gave it out; absent before
    leaving.json   what the coordinator is told when the site leaves (`client.leaving`)
    diary.jsonl    what this site did and how long it took; for the partner's own eyes
    home/          the partner's own terms beside an exported model (`client.home`); never leaves
    outbox/        finished replies until their run ends (`client.outbox`)
    profiles/      raw vectors of the users' own media, in a run that reads them; never leaves
    witness.npy    the noise block of the last committed round (`client.witness`)

The same folder is used by a simulated and by a real partner. Beside `client.rotation`, the only module that knows
paths. What an object of this module has read it does not read again; `client.open_sites` sees to it that it is current.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from client.file_marks import Marks, marks_of
from client.plan_parts import PlanParts
from client.policy import Policy, read_policy
from client.pricing import price_of_mechanisms
from client.rotation import KEY, LEDGER, signing_key
from client.shared_parts import bundle_marks, shared_bundle, shared_catalogue, shared_items, table_marks
from mmrec_model.canonical import JsonValue, canonical_json, sha256_hex
from mmrec_model.config import RunConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.config_types import Count, Strict
from mmrec_model.data.dataset import PartnerDataset, open_partner
from mmrec_model.data.schema import INTERACTIONS, ITEMS, SUFFIXES, USERS
from mmrec_model.errors import ConfigError
from mmrec_model.features.bundle import FeatureBundle
from mmrec_model.features.signature import check_signature
from mmrec_model.installed_code import code_digest
from mmrec_model.model.items import Items
from mmrec_model.privacy.chain import Chain
from mmrec_model.privacy.journal import inspect_chain
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.privacy.merkle import MerkleTree
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.storage import sha256_of_file, write_atomically

DIARY, SETTINGS, POLICY, SALT = "diary.jsonl", "site.toml", "policy.toml", "salt.bin"
_SECRET_MODE = 0o600


class SiteConfig(Strict):
    """`site.toml`.

    Attributes:
        name: the partner, as the coordinator and the report call it.
        data: folder in partner format, relative to the site.
        catalogue: folder with the shared `items` file.
        features: the feature bundle.
        users: the public number of users; fixed at enrolment, sets the divisor and the partner's weight.
        text_encoder: where this site has the text encoder, for a run that tunes it or that reads the users' own texts:
            `embedded`, or a local folder. A plan's own source is never followed here; its digest must fit.
        image_encoder: likewise, for the users' own pictures.
        coordinator_key: the coordinator's public key, which enrolment writes into the ledger; from then on the key that
            the ledger names counts, and every request must be signed by it. None for a site without a coordinator.
        simulation_seed: makes noise reproducible, for simulations alone: who knows it can subtract the noise.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    data: str = "data"
    catalogue: str
    features: str
    users: Count
    text_encoder: str = "embedded"
    image_encoder: str = "embedded"
    coordinator_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    simulation_seed: int | None = None


@dataclass(frozen=True)
class Site:
    """An opened site; its parts are read on first use."""

    root: Path
    config: SiteConfig

    @classmethod
    def open(cls, root: Path) -> Site:
        """Read `site.toml`.

        Raises:
            ConfigError: absent, not TOML, or not of the documented fields.
        """
        path = root / SETTINGS
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(
                f"{path} cannot be read: {error}", remedy="Name a site folder, see docs/site.md"
            ) from error
        return cls(root, parse_config(SiteConfig, values, source=str(path)))

    @cached_property
    def policy(self) -> Policy:
        """The partner's limits."""
        return read_policy(self.root / POLICY)

    @cached_property
    def dataset(self) -> PartnerDataset:
        """The partner's users, checked against the shared catalogue.

        Raises:
            ConfigError: the number of users is not the enrolled one.
        """
        catalogue = self._folder(self.config.catalogue)
        dataset = open_partner(self.data_folder, catalogue=shared_catalogue(catalogue, table_marks(catalogue, ITEMS)))
        if len(dataset) != self.config.users:
            raise ConfigError(
                f"site '{self.config.name}' was enrolled with {self.config.users} users, its data has {len(dataset)}",
                remedy="Enrol the new data set as a site of its own, with its own ledger",
            )
        return dataset

    @cached_property
    def bundle(self) -> FeatureBundle:
        """The installed feature bundle, verified; shared by all sites of a process."""
        return shared_bundle(self.features_folder, bundle_marks(self.features_folder))

    def check_features(self, coordinator: PublicKey | None) -> None:
        """Refuse an installed bundle that the coordinator did not sign; without a coordinator nothing is asked.

        Raises:
            BundleSignatureError: no signature, or not of this key and bundle.
        """
        if coordinator is not None:
            check_signature(self.features_folder, self.bundle, coordinator)

    @cached_property
    def items(self) -> Items:
        """The catalogue as tensors, shared likewise."""
        return shared_items(self.features_folder, bundle_marks(self.features_folder))

    def parts_of(self, config: RunConfig) -> PlanParts:
        """What a plan needs of this site; kept until another plan asks."""
        if config.digest not in self._parts:
            self._parts.clear()
            self._parts[config.digest] = PlanParts(self, config)
        return self._parts[config.digest]

    @cached_property
    def _parts(self) -> dict[str, PlanParts]:
        return {}

    def marks(self) -> Marks:
        """Marks of every file that the parts of this object are read from; see `client.open_sites`."""
        tables = table_marks(self._folder(self.config.catalogue), ITEMS)
        tables += table_marks(self.data_folder, INTERACTIONS) + table_marks(self.data_folder, USERS)
        return marks_of([self.root / SETTINGS, self.root / POLICY]) + tables + bundle_marks(self.features_folder)

    @property
    def data_folder(self) -> Path:
        """The partner's own files."""
        return self._folder(self.config.data)

    @property
    def features_folder(self) -> Path:
        """The installed feature bundle."""
        return self._folder(self.config.features)

    @property
    def profiles(self) -> Path:
        """Where raw vectors of the users' own media are kept."""
        return self.root / "profiles"

    @property
    def home(self) -> Path:
        """Where the partner's own terms of the score lie (`client.home`); they never leave."""
        return self.root / "home"

    @property
    def outbox(self) -> Path:
        """Where finished replies wait."""
        return self.root / "outbox"

    @property
    def inbox(self) -> Path:
        """Where the scorer of the run under way lies (`client.inbox`)."""
        return self.root / "inbox"

    @property
    def approvals(self) -> Path:
        """The operator's decisions about runs (`client.approval`)."""
        return self.root / "approvals.jsonl"

    @property
    def federation_file(self) -> Path:
        """The federation that the site joined."""
        return self.root / "federation.json"

    @property
    def leaving_statement(self) -> Path:
        """What the coordinator is told when the site leaves (`client.leaving`)."""
        return self.root / "leaving.json"

    @property
    def witness(self) -> Path:
        """The last committed witness block (`client.witness`)."""
        return self.root / "witness.npy"

    @property
    def public_key(self) -> str:
        """What the coordinator enrols: 64 hexadecimal digits."""
        return self._key().public.hexadecimal

    @property
    def key_id(self) -> str:
        """How the ledger calls that key."""
        return self._key().public.key_id

    @property
    def code_digest(self) -> str:
        """Digest of the installed package's source; see `code_digest`."""
        return code_digest()

    @cached_property
    def policy_digest(self) -> str:
        """SHA-256 of the policy file, byte for byte."""
        return sha256_hex((self.root / POLICY).read_bytes())

    @cached_property
    def data_digest(self) -> str:
        """SHA-256 over the tables of data and catalogue, byte for byte, and the feature bundle; stays at the site.

        Pictures of the users themselves are not in it.
        """
        tables = [(self.data_folder, INTERACTIONS), (self.data_folder, USERS)]
        tables.append((self._folder(self.config.catalogue), ITEMS))
        paths = [folder / f"{schema.stem}{suffix}" for folder, schema in tables for suffix in SUFFIXES]
        digests: dict[str, JsonValue] = {path.name: sha256_of_file(path) for path in paths if path.is_file()}
        return sha256_hex(canonical_json({"tables": digests, "features": self.bundle.digest}))

    @property
    def commitment(self) -> str:
        """The commitment to the user ids that lie here now; the ledger's first record has that of the enrolment.

        Raises:
            ConfigError: the salt cannot be read.
        """
        try:
            salt = (self.root / SALT).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{SALT} cannot be read: {error.strerror}", remedy="Restore it from a backup; nothing else replaces it"
            ) from error
        return _commitment(salt, self.dataset.user_ids)

    def sign(self, statement: bytes, *, domain: bytes) -> str:
        """The site's signature over a statement of its operator."""
        return self._key().sign(statement, domain=domain)

    def inspect_ledger(self) -> Chain:
        """The ledger as it is now, verified; takes no lock and changes nothing, so it works while the site answers.

        Raises:
            LedgerFault: it would not open.
        """
        return inspect_chain(self.root / LEDGER)

    def open_ledger(self) -> Ledger:
        """The ledger, locked while open; every reserve is priced against the budget it was opened with."""
        return Ledger.open(self.root / LEDGER, self._key(), price=price_of_mechanisms)

    def noise(self, purpose: str) -> GaussianNoise:
        """Randomness for one release; from the operating system, unless this is a simulated site.

        Args:
            purpose: distinct for every release and attempt, so that a seeded site never repeats a draw.
        """
        seed = self.config.simulation_seed
        return GaussianNoise(seed=None if seed is None else f"{seed}/{self.config.name}/{purpose}".encode())

    @contextmanager
    def diary(self, run_id: str, round_number: int, kind: str) -> Iterator[None]:
        """Note a piece of work and its wall seconds in `diary.jsonl`, which never leaves the site."""
        start = time.monotonic()
        yield
        self.note(run_id, round_number, kind, {"seconds": time.monotonic() - start})

    def note(self, run_id: str, round_number: int, kind: str, facts: Mapping[str, object]) -> None:
        """Add a line to `diary.jsonl`, which never leaves the site."""
        entry = {"run_id": run_id, "round": round_number, "kind": kind, **facts}
        with (self.root / DIARY).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def noted(self) -> Iterator[dict[str, Any]]:
        """The lines of the diary, oldest first; one that a crash cut short is left out."""
        path = self.root / DIARY
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            with suppress(ValueError):
                yield json.loads(line)

    def _key(self) -> SigningKey:
        return signing_key(self.root)

    def _folder(self, name: str) -> Path:
        return (self.root / name).resolve()


def enrol(root: Path, config: SiteConfig, policy: Policy) -> Site:
    """Make the site folder around existing data: settings, key, salt, and the ledger's opening record.

    Args:
        root: folder; `data` of the configuration already lies in it.
        config: the site's settings.
        policy: the partner's limits; its epsilon is the budget of this data set for ever.

    Raises:
        LedgerError: the folder was enrolled before.
        ConfigError: the data does not have the stated number of users.
    """
    write_atomically(root / SETTINGS, _toml(config.model_dump(exclude_none=True)))
    write_atomically(root / POLICY, _toml(policy.model_dump(mode="json")))
    site = Site.open(root)
    salt = os.urandom(32)
    commitment = _commitment(salt, site.dataset.user_ids)
    write_atomically(root / SALT, salt, mode=_SECRET_MODE)
    body = {
        "partner": config.name,
        "server_key": config.coordinator_key,
        "governance_key": None,
        "dataset_commitment": commitment,
        "users": config.users,
        "users_public": True,
        "unit": "user",
        "relation": policy.relation,
        "delta": policy.max_delta,
        "epsilon_budget": None if policy.allow_without_privacy else policy.max_epsilon,
        "rho_budget": None,
        "alpha": None,
        "max_records_per_user": policy.max_history,
        "server_nonce": None,
        "policy_digest": sha256_hex((root / POLICY).read_bytes()),
    }
    with Ledger.create(root / LEDGER, SigningKey.create(root / KEY), body, price=price_of_mechanisms):
        pass
    return site


def _commitment(salt: bytes, user_ids: tuple[str, ...]) -> str:
    """Root of a Merkle tree over keyed digests of the user ids, in the order of the data set."""
    leaves = (hmac.new(salt, user.encode(), hashlib.sha256).hexdigest() for user in user_ids)
    return MerkleTree(list(leaves)).root()


def _toml(values: dict[str, object]) -> bytes:
    """Flat TOML: text, numbers, flags and lists of text, whose JSON form is TOML as well."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()).encode()
