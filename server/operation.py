"""What an operator of the coordinator decides by hand: who is enrolled, what a fork meant, when the own key changes.

None of it can be brought about by a message. Every function takes the lock of the folder, so that it is refused while a
run is under way.

The coordinator's own key is replaced in three steps, because every partner takes over the new key in its own ledger,
when it likes: `begin_rotation` makes the new key (`key.next.pem`); `sign_rotation` signs, for one partner, the place in
its ledger; `end_rotation` lets the new key sign requests. The former key stays in `key.former.pem`, for partners that
take over the new one after that; until then they refuse the coordinator's requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from mmrec_model.enrolment_file import EnrolmentFile
from mmrec_model.errors import ConfigError, TrustError
from mmrec_model.fingerprint import fingerprint_of
from mmrec_model.privacy.countersign import HeadBook
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.files import file_faults
from mmrec_model.privacy.fork import ForkProof
from mmrec_model.privacy.keys import KEY_MODE, PublicKey, SigningKey
from mmrec_model.privacy.rotation import Place
from mmrec_model.storage import fsync_folder, write_atomically
from server.founding import read_founded
from server.partners import PARTNERS, Partner, changed_list, moment, read_list
from server.sites import HEADS, KEY, coordinator_key, fork_file

NEXT_KEY: Final = "key.next.pem"
FORMER_KEY: Final = "key.former.pem"


def enrol_partner(folder: Path, name: str, public_key: PublicKey, *, replace: bool = False) -> None:
    """Enrol a partner, or confirm its new key.

    Args:
        folder: the coordinator's folder.
        name: the partner's name.
        public_key: its key, as the partner told it by a road that is not this system.
        replace: take the place of the key known so far, which is lost or compromised. The ledger must still grow from
            the last head that was shown.

    Raises:
        LedgerFault: `KEY` if the partner has another key and `replace` is false, or another partner has this key;
            `LOCKED` while a run is under way.
        ConfigError: the partner was revoked.
    """
    with _book(folder) as book, changed_list(folder) as partners:
        known = partners.get(name)
        if known is not None and known.revoked is not None:
            raise ConfigError(f"'{name}' was revoked at {known.revoked.at}", remedy="Enrol it under another name")
        if replace and name in book.partners and book.keys(name)[-1] != public_key:
            book.replace_key(name, public_key)
        else:
            book.enrol(name, public_key)
        key = public_key.hexadecimal
        partners[name] = Partner(key=key) if known is None else known.model_copy(update={"key": key})


def enrol_from_file(folder: Path, file: EnrolmentFile, *, now: datetime) -> None:
    """Enrol a partner as its enrolment says: keys, number of users, and the ledger's first record.

    Args:
        folder: the coordinator's folder.
        file: the enrolment, compared and checked (`mmrec_model.enrolment_file.read_enrolment`).
        now: the time.

    Raises:
        ConfigError: the folder was not founded, or a partner of this name, or with one of these keys, is enrolled.
        TrustError: the enrolment is for another federation.
        LedgerFault: the key belongs or belonged to another partner; `LOCKED` while a run is under way.
    """
    founded = read_founded(folder)
    if file.federation != founded.digest:
        raise TrustError(
            f"'{file.partner}' joins the federation {fingerprint_of(file.federation)}, this is {founded.fingerprint}",
            remedy="Give the partner this coordinator's federation.json, and have it make its site with that",
        )
    with _book(folder) as book, changed_list(folder) as partners:
        _require_new(file, partners)
        book.enrol(file.partner, file.public_key, file.opening)
        partners[file.partner] = Partner(
            key=file.site_key,
            node_key=file.node_key,
            users=file.users,
            opening=file.ledger_opening,
            enrolled=moment(now),
        )


def write_node_keys(folder: Path, out: Path) -> dict[str, Path]:
    """Write the public node key of each partner that takes part, for `flwr supernode register`.

    Args:
        folder: the coordinator's folder.
        out: where `NAME.pub` files go; those of partners that no longer take part are removed.

    Returns:
        The files by partner.

    Raises:
        ConfigError: the list of partners cannot be read.
        LedgerFault: a file cannot be written.
    """
    partners = read_list(folder / PARTNERS)
    keys = {name: one.node_key for name, one in partners.items() if one.node_key is not None and one.revoked is None}
    paths = {name: out / f"{name}.pub" for name in keys}
    with file_faults(out):
        for name, one in partners.items():
            if one.node_key is not None and one.revoked is not None:
                (out / f"{name}.pub").unlink(missing_ok=True)
        for name, path in paths.items():
            write_atomically(path, f"{keys[name]} {name}\n".encode())
    return paths


def _require_new(file: EnrolmentFile, partners: Mapping[str, Partner]) -> None:
    for name, one in partners.items():
        shared = [
            what
            for what, theirs, its in (
                ("name", name, file.partner),
                ("site key", one.key, file.site_key),
                ("node key", one.node_key, file.node_key),
            )
            if theirs == its
        ]
        if shared:
            raise ConfigError(
                f"the {shared[0]} of '{file.partner}' is enrolled already, for '{name}'"
                + ("" if one.revoked is None else f", which was revoked at {one.revoked.at}"),
                remedy="Every partner brings a name and keys of its own, a revoked one too",
            )


def explain_fork(folder: Path, partner: str, *, keep: Literal["first", "second"], because: str) -> ForkProof:
    """End the block of a partner that showed two histories; the proof stays in its file, with the explanation.

    Args:
        folder: the coordinator's folder.
        partner: its name.
        keep: the head of the proof from which the ledger goes on.
        because: what happened, for the auditor.

    Raises:
        LedgerFault: `KEY` if the partner is unknown, `FORK` if it has no open fork, `LOCKED` while a run is under way.
    """
    with _book(folder) as book:
        open_fork = book.fork(partner)
        if open_fork is not None:
            file = fork_file(folder, partner, open_fork)
            stamp = datetime.now(UTC).isoformat(timespec="seconds")
            document = json.loads(file.read_bytes()) if file.exists() else {"partner": partner}
            document |= {"proof": open_fork.to_json(), "explanation": {"kept": keep, "because": because, "at": stamp}}
            write_atomically(file, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
        return book.explain_fork(partner, keep)


def begin_rotation(folder: Path) -> PublicKey:
    """Make the coordinator's next key, or name the one that was made before.

    Raises:
        LedgerFault: the key file cannot be written, or is damaged or open to others.
    """
    path = folder / NEXT_KEY
    return (SigningKey.load(path) if path.exists() else SigningKey.create(path)).public


def sign_rotation(folder: Path, place: Place) -> dict[str, str]:
    """Both keys' signatures over the place in one partner's ledger, before or after `end_rotation`.

    Returns:
        `old_signature` and `new_signature`.

    Raises:
        ConfigError: the place is about another key than the coordinator's new one.
    """
    for names in ((KEY, NEXT_KEY), (FORMER_KEY, KEY)):
        if all((folder / name).exists() for name in names):
            old, new = (SigningKey.load(folder / name) for name in names)
            if place.role == "server" and place.new_key == new.public:
                return {"old_signature": place.signed_by(old), "new_signature": place.signed_by(new)}
    raise ConfigError(
        f"the place is about the {place.role} key {place.new_key.key_id}, which is not this coordinator's new key",
        remedy="Make a new key first, and give the partner its public key",
    )


def end_rotation(folder: Path) -> PublicKey:
    """Let the next key sign requests and heads from now on.

    Raises:
        ConfigError: no next key was made.
        LedgerFault: `LOCKED` while a run is under way.
    """
    with _book(folder):
        if not (folder / NEXT_KEY).exists():
            raise ConfigError(f"{folder / NEXT_KEY} does not exist", remedy="Make a new key first")
        new_key = SigningKey.load(folder / NEXT_KEY)
        with file_faults(folder / KEY):
            write_atomically(folder / FORMER_KEY, (folder / KEY).read_bytes(), mode=KEY_MODE)
            (folder / NEXT_KEY).replace(folder / KEY)
            fsync_folder(folder)
    return new_key.public


@contextmanager
def _book(folder: Path) -> Iterator[HeadBook]:
    if not folder.is_dir():
        raise LedgerFault(
            FaultCode.MISSING, f"{folder} is no folder", remedy="Name the coordinator's folder of a workspace"
        )
    with HeadBook(folder / HEADS, coordinator_key(folder)) as book:
        yield book
