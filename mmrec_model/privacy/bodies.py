"""What a record of each type holds: one table of fields per type, and nothing outside the tables.

There is no field for a realised batch size, a sampled id, a clipped fraction, a loss, a norm or a seed, so none can be
written. All fields are required; where a fact may be absent the table says null. The tables are version 1 of the
format: a change of any of them is a new version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from mmrec_model.privacy.fields import (
    Choice,
    Entries,
    Field,
    Flag,
    Nullable,
    Number,
    Rows,
    Setting,
    Table,
    Text,
    Variants,
    Whole,
)


class RecordType(StrEnum):
    """The types of version 1."""

    OPEN = "open"
    CODE = "code"
    DATA_PREP = "data_prep"
    PLAN = "plan"
    RESERVE = "reserve"
    COUNTERSIGN = "countersign"
    COMMIT = "commit"
    RELEASE = "release"
    AUDIT_PLAN = "audit_plan"
    AUDIT_RESULT = "audit_result"
    CLOSE = "close"
    RECOVERED = "recovered"
    KEY_ROTATE = "key_rotate"
    BUDGET_CHANGE = "budget_change"


DIGEST: Final = Text(r"[0-9a-f]{64}")
SIGNATURE: Final = Text(r"[0-9a-f]{128}")
KEY_ID: Final = Text(r"[0-9a-f]{16}")
NONCE: Final = Text(r"[A-Za-z0-9_-]{8,128}")
RUN_ID: Final = Text(r"[a-z0-9][a-z0-9-]{0,63}")
WORD: Final = Text(r"[a-z][a-z0-9_]{0,63}")
TEXT: Final = Text()
POSITIVE: Final = Number(above=0.0)
RATE: Final = Number(above=0.0, most=1.0)
BELOW_ONE: Final = Number(above=0.0, most=math.nextafter(1.0, 0.0))
NOT_NEGATIVE: Final = Number(least=0.0)
OUTCOME: Final = Choice(("passed", "failed", "not_run"))

MECHANISM: Final = Variants(
    {
        "sampled_gaussian": {"sample_rate": RATE, "noise_multiplier": POSITIVE, "steps": Whole(1)},
        "gaussian": {"noise_multiplier": POSITIVE, "count": Whole(1)},
        "non_private": {},
    }
)
"""A privacy event, as `mmrec_model.privacy.events.to_record` writes it."""

BODIES: Final[Mapping[RecordType, Mapping[str, Field]]] = {
    RecordType.OPEN: {
        "partner": TEXT,
        "key_id": KEY_ID,
        "public_key": DIGEST,
        "server_key": Nullable(DIGEST),
        "governance_key": Nullable(DIGEST),
        "dataset_commitment": DIGEST,
        "users": Whole(1),
        "users_public": Flag(),
        "unit": Choice(("user",)),
        "relation": Choice(("zero_out", "replace_one")),
        "delta": BELOW_ONE,
        "epsilon_budget": Nullable(POSITIVE),
        "rho_budget": Nullable(POSITIVE),
        "alpha": Nullable(Number(above=1.0)),
        "max_records_per_user": Whole(1),
        "server_nonce": Nullable(NONCE),
        "policy_digest": DIGEST,
    },
    RecordType.CODE: {
        "git_commit": Nullable(Text(r"[0-9a-f]{40}|[0-9a-f]{64}")),
        "wheel_digest": Nullable(DIGEST),
        "lock_digest": Nullable(DIGEST),
        "container_digest": Nullable(DIGEST),
        "provenance": Nullable(TEXT),
        "versions": Entries(TEXT),
        "rng_self_test": OUTCOME,
        "neighbour_replay": OUTCOME,
        "neighbour_replay_digest": Nullable(DIGEST),
    },
    RecordType.DATA_PREP: {
        "statistics": Entries(Table({"origin": Choice(("public", "dp", "none")), "charge": Nullable(DIGEST)})),
    },
    RecordType.PLAN: {
        "run_id": RUN_ID,
        "config_digest": DIGEST,
        "mechanisms": Rows(MECHANISM),
        "sampling": Choice(("poisson", "full", "none")),
        "sample_rate": Nullable(RATE),
        "noise_multiplier": Nullable(POSITIVE),
        "max_grad_norm": Nullable(POSITIVE),
        "clipping": Choice(("flat", "adaptive", "none")),
        "rounds": Whole(),
        "steps": Whole(),
        "divisor": Nullable(POSITIVE),
        "optimizer": TEXT,
        "hyper_parameters": Entries(Setting()),
        "adaptivity": Choice(("fixed", "adaptive")),
        "epsilon_zero_out": Nullable(POSITIVE),
        "epsilon_replace_one": Nullable(POSITIVE),
        "epsilon_renyi": Nullable(POSITIVE),
        "reason": Nullable(TEXT),
    },
    RecordType.RESERVE: {
        "run_id": RUN_ID,
        "round": Whole(),
        "attempt": Whole(),
        "kind": WORD,
        "mechanism": MECHANISM,
        "sensitivity": Nullable(POSITIVE),
        "model_digest": Nullable(DIGEST),
        "server_nonce": Nullable(NONCE),
    },
    RecordType.COUNTERSIGN: {
        "server_key_id": KEY_ID,
        "size": Whole(1),
        "hash": DIGEST,
        "root": DIGEST,
        "nonce": NONCE,
        "signature": SIGNATURE,
    },
    RecordType.COMMIT: {
        "reserve": DIGEST,
        "update_digest": DIGEST,
        "model_digest_after": Nullable(DIGEST),
        "mechanism": MECHANISM,
        "sensitivity": Nullable(POSITIVE),
        "steps_done": Whole(),
        "witness": Nullable(
            Table(
                {
                    "coordinates": Whole(1),
                    "deviation_ratio": NOT_NEGATIVE,
                    "correlation": Nullable(Number(least=-1.0, most=1.0)),
                }
            )
        ),
        "rng": Choice(("chacha20/os.urandom", "simulated", "none")),
    },
    RecordType.RELEASE: {
        "name": WORD,
        "run_id": Nullable(RUN_ID),
        "mechanism": Nullable(MECHANISM),
        "sensitivity": Nullable(POSITIVE),
        "payload_digest": DIGEST,
    },
    RecordType.AUDIT_PLAN: {
        "run_id": RUN_ID,
        "score": WORD,
        "canaries": Whole(1),
        "guesses_in": Whole(),
        "guesses_out": Whole(),
        "beta": BELOW_ONE,
        "delta": BELOW_ONE,
        "coins_commitment": DIGEST,
    },
    RecordType.AUDIT_RESULT: {
        "audit_plan": DIGEST,
        "correct": Whole(),
        "epsilon_lower": NOT_NEGATIVE,
        "epsilon_ceiling": POSITIVE,
        "p_value_of_claim": Nullable(Number(least=0.0, most=1.0)),
        "report_digest": DIGEST,
    },
    RecordType.CLOSE: {
        "run_id": Nullable(RUN_ID),
        "reason": Choice(("completed", "stopped", "budget", "policy", "withdrawn")),
    },
    RecordType.RECOVERED: {"torn_digest": DIGEST, "torn_bytes": Whole(1), "kept_as": TEXT},
    RecordType.KEY_ROTATE: {
        "role": Choice(("partner", "server", "governance")),
        "old_key_id": Nullable(KEY_ID),
        "new_key_id": KEY_ID,
        "new_key": DIGEST,
        "reason": Choice(("scheduled", "compromised", "enrolled")),
        "old_signature": Nullable(SIGNATURE),
        "new_signature": SIGNATURE,
    },
    RecordType.BUDGET_CHANGE: {
        "change": Whole(1),
        "epsilon_budget": Nullable(POSITIVE),
        "rho_budget": Nullable(POSITIVE),
        "reason": TEXT,
        "governance_signature": SIGNATURE,
    },
}
"""Every type and its fields."""
