"""What a killed and restarted client left behind, judged from its files and from what the network saw alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from client import outbox
from client.pricing import price_of_mechanisms
from client.site import Site
from mmrec_model.canonical import sha256_hex
from mmrec_model.config import RunConfig
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.faults import LedgerFault
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.privacy.ledger import Ledger, read_ledger
from mmrec_model.privacy.records import Record
from mmrec_model.protocol import arrays_digest

BUDGET_CODE = "budget"


@dataclass
class Verdict:
    """One trial.

    Attributes:
        dangling: reserves under which nothing left.
        recovered: torn lines kept aside and recorded.
        refused: whether the run ended because the budget was spent.
        lost: broken promises about replies that had left.
        under_counted: broken promises about what was charged.
        unexplained: broken promises about the ledger itself.
    """

    dangling: int = 0
    recovered: int = 0
    refused: bool = False
    lost: list[str] = field(default_factory=list)
    under_counted: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """All broken promises."""
        return [*self.under_counted, *self.lost, *self.unexplained]


def judge(root: Path, seen: Path, config: RunConfig) -> Verdict:
    """Judge a site whose client was killed and has come to its end since.

    Args:
        root: the site.
        seen: one line per reply that the network saw: round and digest, or round, `refused` and code.
        config: the plan of the run.
    """
    verdict = Verdict()
    site = Site.open(root)
    try:
        read_ledger(root / "ledger.jsonl", SigningKey.load(root / "key.pem").public)
        with site.open_ledger() as ledger:
            _judge_charges(verdict, ledger, seen, site)
            _judge_recovery(verdict, ledger, root)
            _judge_replies(verdict, ledger, seen, site, config)
    except LedgerFault as fault:
        verdict.unexplained.append(f"the ledger does not open: {fault}")
    return verdict


def replies_seen(seen: Path) -> dict[int, list[str]]:
    """What the network saw of each round, in order: digests, and refusals as `refused CODE`."""
    rounds: dict[int, list[str]] = defaultdict(list)
    for line in seen.read_text(encoding="utf-8").splitlines():
        number, what = line.split(" ", 1)
        rounds[int(number)].append(what)
    return rounds


def _judge_charges(verdict: Verdict, ledger: Ledger, seen: Path, site: Site) -> None:
    """Promise 1, over everything that left and everything that was ever computed."""
    place = {record.hash: number for number, record in enumerate(ledger.records)}
    reserves = {record.hash: record for record in ledger.records if record.type == RecordType.RESERVE}
    commits: dict[str, Record] = {}
    for record in ledger.records:
        if record.type == RecordType.COMMIT:
            commits[record.text("update_digest")] = record
    released = []
    for number, whats in replies_seen(seen).items():
        for digest in {what for what in whats if not what.startswith("refused")}:
            commit = commits.get(digest)
            reserve = None if commit is None else reserves.pop(commit.text("reserve"), None)
            if commit is None or reserve is None or reserve.whole("round") != number:
                verdict.under_counted.append(f"round {number}: no reserve of its own covers {digest[:12]}")
                continue
            if place[reserve.hash] > place[commit.hash] or reserve.table("mechanism") != commit.table("mechanism"):
                verdict.under_counted.append(f"round {number}: {digest[:12]} ran another mechanism than was reserved")
            released.append(commit.table("mechanism"))
    kept = {path.stem for path in site.outbox.glob("*.safetensors")}
    uncharged = kept - {record.hash for record in ledger.records if record.type == RecordType.RESERVE}
    verdict.under_counted += [f"the stored reply {name[:12]} has no reserve" for name in sorted(uncharged)]
    budget = ledger.budget
    spent, gone = (price_of_mechanisms(events, budget.delta) for events in (ledger.spent(), released))
    if not gone <= spent <= (budget.epsilon or 0.0):
        verdict.under_counted.append(f"released {gone:.4f}, spent {spent:.4f}, budget {budget.epsilon}")


def _judge_recovery(verdict: Verdict, ledger: Ledger, root: Path) -> None:
    """Promises 3 and 4: the ledger itself says what every crash did."""
    stated = {
        record.text("kept_as"): record.text("torn_digest")
        for record in ledger.records
        if record.type == RecordType.RECOVERED
    }
    found = {path.name: sha256_hex(path.read_bytes()) for path in root.glob("ledger.jsonl.torn-*")}
    if stated != found:
        verdict.unexplained.append(f"torn lines: the ledger states {sorted(stated)}, the folder has {sorted(found)}")
    verdict.recovered = len(stated)
    verdict.dangling = len(ledger.dangling())
    per_round: dict[int, list[Record]] = defaultdict(list)
    for record in ledger.records:
        if record.type == RecordType.RESERVE:
            per_round[record.whole("round")].append(record)
    dangling = {record.hash for record in ledger.dangling()}
    for number, reserves in per_round.items():
        if [record.whole("attempt") for record in reserves] != list(range(len(reserves))):
            verdict.unexplained.append(f"round {number}: attempts are not counted up")
        if any(record.hash not in dangling for record in reserves[:-1]):
            verdict.unexplained.append(f"round {number}: was charged again although its reply was there")


def _judge_replies(verdict: Verdict, ledger: Ledger, seen: Path, site: Site, config: RunConfig) -> None:
    """Promise 2, and that the run came to an end that is explained."""
    saw = replies_seen(seen)
    commits = {
        record.text("update_digest"): record.text("reserve")
        for record in ledger.records
        if record.type == RecordType.COMMIT
    }
    for number in range(config.training.rounds + 1):
        whats = saw.get(number, [])
        digests = [what for what in whats if not what.startswith("refused")]
        if not whats:
            verdict.lost.append(f"round {number}: never answered")
        elif whats[-1] == f"refused {BUDGET_CODE}" and not digests:
            verdict.refused = True
        elif len(set(digests)) != 1 or whats[whats.index(digests[0]) :] != digests:
            verdict.lost.append(f"round {number}: the network saw {[what[:12] for what in whats]}")
        elif digests[0] in commits:
            stored = outbox.find(site.outbox, commits[digests[0]])
            if stored is None or arrays_digest(stored.arrays) != digests[0]:
                verdict.lost.append(f"round {number}: {digests[0][:12]} is not kept as it left")
