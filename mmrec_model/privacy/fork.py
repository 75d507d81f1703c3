"""Proof that a partner showed two histories: its own signatures, which whoever has its public keys can check.

Two kinds, both made of nothing but statements that the partner signed, so that nobody else can make one up:

1. two heads of one size that differ;
2. a head, a later head, and the partner's word for how the later one grew out of the earlier one, where the word does
   not hold (RFC 9162, 2.1.4.2). An honest ledger cannot be brought to sign that: its proof of growth always verifies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mmrec_model.canonical import JsonValue
from mmrec_model.privacy.fields import Nullable, Table
from mmrec_model.privacy.heads import GROWTH, SIGNED, SignedGrowth, SignedHead, growth_from_json, statement_from_json
from mmrec_model.privacy.keys import PublicKey

FORK: Final = Table({"first": SIGNED, "second": SIGNED, "growth": Nullable(GROWTH)})


@dataclass(frozen=True)
class ForkProof:
    """Two signed heads that cannot both be of one history.

    Attributes:
        first: the head that was shown first.
        second: the other one, of the same size or, with `growth`, of a larger one.
        growth: the partner's word for the growth from `first` to `second`, which does not hold.
    """

    first: SignedHead
    second: SignedHead
    growth: SignedGrowth | None = None

    def verifies(self, *keys: PublicKey) -> bool:
        """Whether this proves that the holder of `keys` (all that were in force, in any order) showed two histories."""
        if self.first.partner != self.second.partner:
            return False
        signers = [[key for key in keys if head.is_signed_by(key)] for head in (self.first, self.second)]
        if not all(signers):
            return False
        if self.growth is None:
            return self.first.size == self.second.size and self.first.head != self.second.head
        spoken = any(self.growth.is_signed_by(key, self.second) for key in signers[1])
        later = self.growth.since == self.first.size < self.second.size
        return spoken and later and not self.growth.holds(self.first.head, self.second)

    @property
    def finding(self) -> str:
        """What was found, for a person."""
        if self.growth is None:
            return f"signed two different heads of {self.first.size} records"
        return f"signed that {self.second.size} records start with {self.first.size} others, which they do not"

    def to_json(self) -> dict[str, JsonValue]:
        """The statements as mappings."""
        growth = None if self.growth is None else self.growth.to_json()
        return {"first": self.first.to_json(), "second": self.second.to_json(), "growth": growth}

    @classmethod
    def from_json(cls, value: JsonValue) -> ForkProof:
        """Read what `to_json` wrote; nothing is verified here.

        Raises:
            LedgerFault: `SCHEMA`.
        """
        FORK.read(value, "ForkProof")
        fields = value if isinstance(value, dict) else {}
        first, second = (statement_from_json(SignedHead, fields[name]) for name in ("first", "second"))
        growth = fields["growth"]
        return cls(first, second, None if growth is None else growth_from_json(growth))
