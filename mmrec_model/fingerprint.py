"""Short names of signed documents, for two people to compare by a road that is not this system.

A fingerprint is the first 128 bits of a SHA-256, as eight groups of four hexadecimal digits. Whoever wants another
document with the fingerprint of an honest one has to try 2^127 on average (a second preimage; that of a document whose
author is dishonest himself is no secret anyway). It is compared whole: a prefix that fits proves nothing.
"""

from __future__ import annotations

import hmac
import re
from typing import Final

from mmrec_model.errors import UsageError

_DIGITS: Final = 32
_GROUP: Final = 4
_FORM: Final = re.compile(r"[0-9a-f]{32}")


def fingerprint_of(digest: str) -> str:
    """The form that is printed and read aloud.

    Args:
        digest: 64 hexadecimal digits.
    """
    return "-".join(digest[place : place + _GROUP] for place in range(0, _DIGITS, _GROUP))


def fits(given: str, digest: str) -> bool:
    """Whether `given`, as a person typed it, is the fingerprint of `digest`; case, blanks and separators do not count.

    Raises:
        UsageError: it is no fingerprint: too short, too long, or with other signs.
    """
    plain = re.sub(r"[\s:.-]", "", given).lower()
    if not _FORM.fullmatch(plain):
        raise UsageError(
            f"{given[:80]!r} is no fingerprint: it has {len(plain)} signs, a fingerprint {_DIGITS} hexadecimal digits",
            remedy="Give it as the other side read it to you, eight groups of four digits",
        )
    return hmac.compare_digest(plain, digest[:_DIGITS])
