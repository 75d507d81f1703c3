"""The checks of `mmrec site check` that need nothing but the site's own folder and the installed package."""

from __future__ import annotations

import platform
import stat
import tempfile
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np

from client.approval import budget_limit
from client.attestation import run_self_test
from client.feature_copy import require_items
from client.made_up_plan import PlanShape
from client.node_key import NODE_KEY
from client.policy import check_code
from client.preflight import Check, Finding, Surroundings, failed, ok, warning
from client.pricing import price_of_mechanisms
from client.rotation import KEY, LEDGER, NEXT_KEY
from client.site import SALT, Site
from mmrec_model.federation_file import FederationFile, read_federation
from mmrec_model.privacy.chain import Chain
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.files import AppendFile
from mmrec_model.privacy.journal import default_head_path
from mmrec_model.privacy.noise import SYSTEM_SOURCE
from mmrec_model.protocol import PROTOCOL_VERSION

_FLOAT_BYTES: Final = 4
_RECORD_BYTES: Final = 4096
"""More than a record of the common types takes."""
_RECORDS_PER_ROUND: Final = 5
_SPENT: Final = 0.9
"""Share of the budget from which on its end is near."""


class SiteChecks:
    """The checks of one site folder.

    Args:
        root: the folder.
        surroundings: the machine.
    """

    def __init__(self, root: Path, surroundings: Surroundings) -> None:
        self.root = root
        self._surroundings = surroundings

    def all(self) -> tuple[Check, ...]:
        """In order: what others build on comes first."""
        return (
            ("settings", self.settings),
            ("policy", self.policy),
            ("secrets", self.secrets),
            ("ledger", self.ledger),
            ("budget", self.budget),
            ("data", self.data),
            ("enrolment", self.enrolment),
            ("features", self.features),
            ("disk", self.disk),
            ("writing", self.writing),
            ("device", self.device),
            ("code", self.code),
            ("versions", self.versions),
            ("self-test", self.self_test),
        )

    @cached_property
    def site(self) -> Site:
        """The opened site."""
        return Site.open(self.root)

    @cached_property
    def federation(self) -> FederationFile | None:
        """What the coordinator gave out; None at a site that has joined nothing."""
        path = self.site.federation_file
        return read_federation(path) if path.exists() else None

    @cached_property
    def _chain(self) -> Chain:
        return self.site.inspect_ledger()

    def settings(self) -> Finding:
        """`site.toml` is readable and its folders are there."""
        absent = [str(path) for path in (self.site.data_folder, self.site.features_folder) if not path.is_dir()]
        if absent:
            return failed(f"no folder {', '.join(absent)}", "", "Correct site.toml, or bring the folder back")
        return ok(f"site '{self.site.config.name}', {self.site.config.users} users")

    def policy(self) -> Finding:
        """`policy.toml` is readable."""
        policy = self.site.policy
        if not policy.require_approval:
            return warning(
                "runs need no approval", "require_approval = true", "Set it, unless this site is one of a simulation"
            )
        return ok(f"epsilon {policy.max_epsilon:g} at delta {policy.max_delta:g}; runs need an approval")

    def secrets(self) -> Finding:
        """Key, salt and ledger are there and open to nobody else."""
        needed = [self.root / name for name in (KEY, SALT, LEDGER, default_head_path(self.root / LEDGER).name)]
        absent = [path.name for path in needed if not path.is_file()]
        if absent:
            return failed(f"missing: {', '.join(absent)}", "", "Restore from the backup; see docs/site.md")
        there = [
            path for path in (*needed, self.root / NEXT_KEY, self.root / NODE_KEY, self.site.approvals) if path.exists()
        ]
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in there}
        wide = {name: f"{mode:04o}" for name, mode in modes.items() if mode & 0o077}
        if wide:
            shown = ", ".join(f"{name} has mode {mode}" for name, mode in wide.items())
            return failed(shown, "0600", "chmod 600; if others could read key.pem, mmrec site rotate-key --compromised")
        return ok(f"{len(there)} files with mode 0600")

    def ledger(self) -> Finding:
        """The chain is whole, continues every head that was shown, and is signed by the key that lies here."""
        chain, records = self._chain, len(self._chain.history.records)
        in_force = chain.history.keys["partner"]
        if in_force.hexadecimal != self.site.public_key:
            return failed(
                "the ledger is signed by another key than key.pem", in_force.key_id, "Restore the key in force"
            )
        if chain.history.closed:
            return failed(f"closed after {records} records", "open", "Enrol new data as a site of its own")
        if chain.tail or not chain.newline:
            return warning(
                f"torn last line of {len(chain.tail)} bytes after {records} records", "",
                "Nothing: the next start keeps the bytes aside and goes on",
            )  # fmt: skip
        if chain.history.dangling:
            return warning(f"{records} records, {len(chain.history.dangling)} of them reserves without a commit", "",
                           "Nothing: dry runs not yet sent, or rounds that a crash ended; they are spent")  # fmt: skip
        return ok(f"{records} records, whole")

    def budget(self) -> Finding:
        """Something is left to spend."""
        history, delta = self._chain.history, self.site.policy.max_delta
        limit, spent = budget_limit(self.site, history), price_of_mechanisms(history.spent(), delta)
        shown, bound = f"epsilon {spent:.4f} spent at delta {delta:g}", f"{limit:g}"
        if spent >= limit:
            return failed(shown, bound, "This data set has released what it may")
        if spent >= _SPENT * limit:
            return warning(shown, bound, "Plan the last runs with the coordinator")
        return ok(shown, bound)

    def data(self) -> Finding:
        """The tables can be read, have the enrolled number of users, and few rows that cannot be used."""
        report = self.site.dataset.report
        rows = ", ".join(f"{name}: {count:,} rows" for name, count in report.rows_read.items())
        if report.quarantined:
            counts = ", ".join(f"{key}: {count:,}" for key, count in report.quarantined.items())
            return warning(
                f"{rows}; left out {counts}", "no row left out", "docs/partner-folder.md says what each code means"
            )
        return ok(rows)

    def enrolment(self) -> Finding:
        """The users are those that the site was enrolled with."""
        if self.site.commitment != self._chain.history.genesis.text("dataset_commitment"):
            return failed(
                "the user ids are not those of the enrolment", "the commitment in the ledger's first record",
                "Bring the enrolled data back; other users are another site, with a ledger of its own",
            )  # fmt: skip
        return ok(f"the {self.site.config.users} enrolled users")

    def features(self) -> Finding:
        """The bundle is whole, finite, of the catalogue's items, signed by the coordinator, and the federation's."""
        bundle, federation = self.site.bundle, self.federation
        broken = [name for name, vectors in bundle.vectors.items() if not np.isfinite(vectors).all()]
        if broken:
            return failed(f"numbers that are not finite in {broken}", "", "Install the coordinator's bundle again")
        require_items(bundle, self.site.dataset.catalogue.item_ids)
        self.site.check_features(self._chain.history.keys.get("server"))
        agreed = None if federation is None else (federation.features_digest, federation.items)
        if agreed is not None and agreed != (bundle.digest, len(bundle.item_ids)):
            return failed(
                f"bundle {bundle.digest[:12]} of {len(bundle.item_ids)} items", f"{agreed[0][:12]} of {agreed[1]}",
                "Install the bundle that the federation names",
            )  # fmt: skip
        return ok(f"bundle {bundle.digest[:12]} of {len(bundle.item_ids)} items")

    def disk(self) -> Finding:
        """There is room for the replies and the ledger of the largest run that the policy allows."""
        policy, free = self.site.policy, self._surroundings.free_bytes(self.root)
        reply = policy.max_trained_weights * _FLOAT_BYTES
        records = _RECORDS_PER_ROUND * _RECORD_BYTES
        least, most = 2 * reply + records, (policy.max_rounds + 2) * (reply + records)
        shown = f"{_mebibytes(free)} free"
        if free < least:
            return failed(shown, f"{_mebibytes(least)} for one round", "Free space: without it every round is refused")
        if free < most:
            return warning(
                shown, f"{_mebibytes(most)} for the largest run of the policy", "Free space before a long run"
            )
        return ok(shown, _mebibytes(most))

    def writing(self) -> Finding:
        """The ledger can be written and is free, and files can be made in the folder and in the outbox."""
        for folder in (self.root, *(path for path in (self.site.outbox, self.site.inbox) if path.exists())):
            try:
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                return failed(f"{folder} cannot be written: {error.strerror}", "", "Give the site's user this folder")
        try:
            AppendFile(self.root / LEDGER).close()
        except LedgerFault as fault:
            if fault.code is not FaultCode.LOCKED:
                raise
            return warning("the ledger is in use", "free", "Nothing, if this site is answering a request right now")
        return ok("ledger, outbox and inbox")

    def device(self) -> Finding:
        """Nothing that a site does asks for a GPU."""
        import torch  # noqa: PLC0415

        return ok(f"training runs on the CPU; CUDA is {'there' if torch.cuda.is_available() else 'absent'}, not needed")

    def code(self) -> Finding:
        """The installed package is one that the policy allows, and the one of the federation."""
        check_code(self.site.policy, self.site.code_digest)
        agreed = self.federation.code_digest if self.federation else None
        if agreed is not None and agreed != self.site.code_digest:
            return warning(
                f"package {self.site.code_digest[:12]}", agreed[:12],
                "Find out which release the coordinator means; every approval names the package",
            )  # fmt: skip
        return ok(f"package {self.site.code_digest[:12]}")

    def versions(self) -> Finding:
        """Transport and protocol are those of the federation."""
        found = {name: version(name) for name in ("torch", "flwr", "opacus")}
        shown = ", ".join(f"{name} {number}" for name, number in {"python": platform.python_version(), **found}.items())
        if self.federation is None:
            return ok(shown)
        agreed = f"flwr {self.federation.flwr_version}, protocol {self.federation.protocol_version}"
        if self.federation.protocol_version != PROTOCOL_VERSION:
            return failed(
                f"protocol {PROTOCOL_VERSION}", agreed, "Install the same minor version of mmrec on both sides"
            )
        if _minor(found["flwr"]) != _minor(self.federation.flwr_version):
            return failed(shown, agreed, "Install the Flower version that mmrec pins, on both sides")
        return ok(shown, agreed)

    def self_test(self) -> Finding:
        """The private step of the installed package shows its bound on made-up users."""
        result = run_self_test(self.site.code_digest, SYSTEM_SOURCE, PlanShape())
        shown = f"random numbers {result.rng}, private step {result.neighbour_replay}"
        return ok(shown) if result.passed else failed(shown, "passed", "Install a release that passes mmrec self-test")


def _minor(number: str) -> str:
    return ".".join(number.split(".")[:2])


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
