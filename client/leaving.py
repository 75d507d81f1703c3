"""Leaving a federation: no run goes on, and the coordinator gets a signed statement of what its models still contain.

1. The decision `left` is written first: from the next message on every run is refused (`client.approval`).
2. The statement names the ledger's head and, for each run, the releases that were committed, so may have left: what was
   trained with them stays in the coordinator's models and in every copy of them. Leaving takes nothing back.
3. The ledger is kept: the budget belongs to the data, also if the site joins again.
4. On request the signing key and the node's key are destroyed. What was signed can still be verified.

The statement holds nothing that the coordinator was not shown before.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from client.approval import withdraw_all
from client.node_key import destroy_node_key
from client.rotation import destroy_keys
from client.site import Site
from mmrec_model.canonical import JsonValue, canonical_json
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.history import History
from mmrec_model.privacy.keys import PublicKey
from mmrec_model.storage import write_atomically

LEAVING_DOMAIN: Final = b"mmrec-leaving/v1\0"


def leave(site: Site, *, destroy: bool = False, now: datetime | None = None) -> Path:
    """Leave; `leaving.json` is for the coordinator.

    Args:
        site: this partner.
        destroy: whether the keys are destroyed.
        now: the moment, by default this one.

    Returns:
        Where the statement lies.

    Raises:
        LedgerFault: ledger or key cannot be used; `LOCKED` if the key is to be destroyed while the site answers.
    """
    moment = now or datetime.now(UTC)
    withdraw_all(site, now=moment)
    history = site.inspect_ledger().history
    unsigned = statement_of(history, moment)
    signed = {**unsigned, "signature": site.sign(canonical_json(unsigned), domain=LEAVING_DOMAIN)}
    write_atomically(site.leaving_statement, canonical_json(signed) + b"\n")
    if destroy:
        destroy_keys(site.root)
        destroy_node_key(site.root)
    return site.leaving_statement


def statement_of(history: History, moment: datetime) -> dict[str, JsonValue]:
    """What is signed: who leaves when, the ledger's head, and per run the rounds of each kind that were committed."""
    head, key = history.head, history.keys["partner"]
    runs: dict[str, JsonValue] = {run: _contained(history, run) for run in history.runs}
    return {
        "v": 1,
        "partner": history.partner,
        "public_key": key.hexadecimal,
        "at": moment.isoformat(timespec="seconds"),
        "head": {"size": head.size, "hash": head.hash, "root": head.root},
        "contained": runs,
    }


def is_signed(statement: Mapping[str, JsonValue], key: PublicKey) -> bool:
    """Whether the partner's `key` signed a statement, as the coordinator finds out."""
    unsigned = {name: value for name, value in statement.items() if name != "signature"}
    return key.verifies(str(statement.get("signature")), canonical_json(unsigned), domain=LEAVING_DOMAIN)


def _contained(history: History, run_id: str) -> dict[str, JsonValue]:
    rounds: dict[str, list[int]] = {}
    for record in history.records:
        ours = record.type == RecordType.RESERVE and record.text("run_id") == run_id
        if ours and record.hash not in history.dangling:
            rounds.setdefault(record.text("kind"), []).append(record.whole("round"))
    return {kind: list[JsonValue](numbers) for kind, numbers in rounds.items()}
