"""The privacy ledger of one partner and one data set: what was spent, in the words of the domain.

Promise: a reserve is on disk before `reserve` returns and stays spent whatever happens after it; every later
`Ledger.open` either shows it or refuses to open. The order of a round is reserve, train, commit, send, receipt.
`journal` says how the file is kept, `rules` what may follow what.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.chain import read_chain
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.files import file_faults
from mmrec_model.privacy.heads import Countersignature, SignedGrowth, SignedHead, sign_growth, sign_head
from mmrec_model.privacy.history import Budget
from mmrec_model.privacy.journal import Journal
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.privacy.merkle import Proof
from mmrec_model.privacy.records import Record
from mmrec_model.privacy.rotation import Rotation


class Ledger(Journal):
    """An open, locked ledger; made by `Ledger.create` or `Ledger.open`, used as a context or closed."""

    def reserve(
        self,
        *,
        run_id: str,
        round_number: int,
        kind: str,
        mechanism: Mapping[str, object],
        sensitivity: float | None = None,
        model_digest: str | None = None,
        server_nonce: str | None = None,
        attempt: int | None = None,
    ) -> Record:
        """Spend `mechanism`, before any data is touched; it is never refunded.

        Args:
            run_id: a planned run.
            round_number: 0 before training, then 1, 2, ...
            kind: what will be released: `train`, `popularity`, `metric`, ...
            mechanism: a privacy event, as `events.to_record` writes it.
            sensitivity: L2 bound of one user's contribution (`max_grad_norm` of a training step); None without noise.
            model_digest: the global state that the work starts from.
            server_nonce: the nonce of the server's message.
            attempt: number of reserves of this round before; by default the right one.

        Raises:
            LedgerFault, BudgetExhausted: see `append`.
        """
        with self._mutex:
            body = {
                "run_id": run_id,
                "round": round_number,
                "attempt": self._history.next_attempt(run_id, round_number) if attempt is None else attempt,
                "kind": kind,
                "mechanism": mechanism,
                "sensitivity": _as_float(sensitivity),
                "model_digest": model_digest,
                "server_nonce": server_nonce,
            }
            return self.append(RecordType.RESERVE, body)

    def commit(
        self,
        reserve: Record,
        *,
        update_digest: str,
        mechanism: Mapping[str, object],
        sensitivity: float | None,
        steps_done: int,
        rng: str,
        model_digest_after: str | None = None,
        witness: Mapping[str, object] | None = None,
    ) -> Record:
        """State what a reserve was used for, before the update leaves.

        Args:
            reserve: the record that `reserve` returned.
            update_digest: of the update that will be sent.
            mechanism: read back from what really ran; another one than the reserved is refused.
            sensitivity: read back likewise.
            steps_done: private steps taken; an early stop earns no refund.
            rng: source of the noise: `chacha20/os.urandom`, `simulated` or `none`.
            model_digest_after: the partner's local state after the work.
            witness: `coordinates`, `deviation_ratio` and `correlation` of the witness block.

        Raises:
            LedgerFault: see `append`.
        """
        body = {
            "reserve": reserve.hash,
            "update_digest": update_digest,
            "model_digest_after": model_digest_after,
            "mechanism": mechanism,
            "sensitivity": _as_float(sensitivity),
            "steps_done": steps_done,
            "witness": witness,
            "rng": rng,
        }
        return self.append(RecordType.COMMIT, body)

    def release(
        self,
        *,
        name: str,
        payload_digest: str,
        mechanism: Mapping[str, object] | None,
        sensitivity: float | None = None,
        run_id: str | None = None,
    ) -> Record:
        """Charge and state any other output before it leaves; `mechanism` None says that it is public.

        Raises:
            LedgerFault, BudgetExhausted: see `append`.
        """
        body = {
            "name": name,
            "run_id": run_id,
            "mechanism": mechanism,
            "sensitivity": _as_float(sensitivity),
            "payload_digest": payload_digest,
        }
        return self.append(RecordType.RELEASE, body)

    def countersigned(self, receipt: Countersignature) -> Record:
        """Keep the server's signature over a head of this ledger, in the ledger and in the head file.

        Raises:
            LedgerFault: it is not by the server key in force, not of this ledger, or a replay.
        """
        with self._mutex:
            fields = receipt.to_json()
            fields["server_key_id"] = fields.pop("key_id")
            del fields["partner"]
            record = self.append(RecordType.COUNTERSIGN, fields)
            self._remember_head(receipt)
            return record

    def rotate_key(self, new_key: SigningKey, *, reason: str = "scheduled") -> Record:
        """Hand the ledger over to a new key of the partner; both keys sign, and the new one signs from here on.

        Keep the old key file until this returns: the ledger opens with the key in force alone.

        Raises:
            LedgerFault: see `append`.
        """
        with self._mutex:
            place, old_key = self._history.rotation_place("partner", new_key.public), self._key
            signatures = place.signed_by(old_key), place.signed_by(new_key)
            record = self.append(RecordType.KEY_ROTATE, place.body(old_key.public, *signatures, reason))
            self._key = new_key
            return record

    def rotate_server_key(self, new_key: PublicKey, old_signature: str | None, new_signature: str) -> Record:
        """Take over a new key of the server, by the signatures that the server made for this place of this ledger.

        Args:
            new_key: the server's new key.
            old_signature: of the server key in force over `History.rotation_place`; None if the ledger names none yet.
            new_signature: of the new key over the same.

        Raises:
            LedgerFault: `SIGNATURE` if a signature is not right, or is for another place; see `append`.
        """
        with self._mutex:
            old_key = self._history.keys.get("server")
            place = self._history.rotation_place("server", new_key)
            reason = "enrolled" if old_key is None else "scheduled"
            return self.append(RecordType.KEY_ROTATE, place.body(old_key, old_signature, new_signature, reason))

    def rotations(self, since: int) -> tuple[Rotation, ...]:
        """The rotations of the partner's own key from record `since` on, as they are shown with the present head."""
        history, size = self._history, len(self._history.records)
        return tuple(
            Rotation(history.genesis.hash, record, history.tree.inclusion_proof(record.seq, size))
            for record in history.records[since:]
            if record.type == RecordType.KEY_ROTATE and record.text("role") == "partner"
        )

    def signed_head(self, nonce: str) -> SignedHead:
        """The present head for the server, bound to its nonce."""
        return sign_head(self._history.partner, self.head, nonce, self._key)

    def signed_growth(self, shown: SignedHead, since: int) -> SignedGrowth:
        """The signed proof that this ledger, under its present head `shown`, starts with its first `since` records.

        Raises:
            LedgerFault: `ROLLBACK` if the server saw more than there are.
        """
        return sign_growth(shown, since, self.consistency_proof(since), self._key)

    def consistency_proof(self, size: int) -> Proof:
        """Shows that this ledger starts with the `size` records that the server saw.

        Raises:
            LedgerFault: `ROLLBACK` if the server saw more than there are.
        """
        if size > len(self._history.records):
            raise LedgerFault(
                FaultCode.ROLLBACK,
                f"the ledger has {len(self._history.records)} records, the server says {size}",
                remedy="Restore the whole ledger; an older copy must not be continued",
            )
        return self._history.tree.consistency_proof(size)

    @property
    def budget(self) -> Budget:
        """Limits in force."""
        return self._history.budget

    @property
    def countersignatures(self) -> tuple[Countersignature, ...]:
        """The last one per server key."""
        return self._heads.countersigned

    def spent(self) -> list[dict[str, object]]:
        """Mechanisms charged so far, in order: every reserve, committed or not, and every priced release."""
        return self._history.spent()

    def dangling(self) -> list[Record]:
        """Reserves without a commit, oldest first; they are spent."""
        return list(self._history.dangling.values())


def read_ledger(path: Path, public_key: PublicKey) -> tuple[Record, ...]:
    """Verify a ledger as an auditor does, without a lock and without changing anything.

    Args:
        path: the file.
        public_key: the partner's key at the first or at the last record, from a source other than the file.

    Raises:
        LedgerFault: with the code of the first check of `chain` that fails; then, as check 9, `TORN` if the last line
            is incomplete.
    """
    with file_faults(path):
        content = path.read_bytes()
    chain = read_chain(content, public_key)
    if chain.tail or not chain.newline:
        raise LedgerFault(
            FaultCode.TORN,
            f"the last line of {path} is incomplete after {len(chain.history.records)} records",
            remedy="Let the partner open its ledger, which recovers it, and export it again",
        )
    return tuple(chain.history.records)


def _as_float(value: float | None) -> float | None:
    return None if value is None else float(value)
