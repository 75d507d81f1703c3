"""Leaving ends every run, keeps the ledger, and says, signed, what the models still contain."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from client.dry_run import rehearse
from client.leaving import is_signed, leave
from client.release import answer
from client.rotation import rotate_key
from client.site import Site
from client.standing import budget_of
from mmrec_model.errors import LedgerError
from mmrec_model.privacy.keys import PublicKey
from mmrec_model.protocol import Kind

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def statement(site: Site) -> dict:
    return json.loads(site.leaving_statement.read_bytes())


def test_the_statement_names_what_left_and_nothing_that_did_not(make_site, make_request, config):
    site = make_site()
    for kind, number in ((Kind.POPULARITY, 0), (Kind.TRAIN, 1), (Kind.TRAIN, 2)):
        answer(site, kind, *make_request(number))
    rehearse(site, config, 3, "train", make_request(3)[1])
    leave(site, now=NOON)
    said = statement(site)
    assert said["contained"] == {"run-1": {"popularity": [0], "train": [1, 2]}}
    head = site.inspect_ledger().history.head
    assert said["head"] == {"size": head.size, "hash": head.hash, "root": head.root}
    assert (said["partner"], said["at"]) == ("north", "2026-03-04T12:00:00+00:00")


def test_the_coordinator_can_check_who_wrote_it_and_that_nothing_was_changed(make_site):
    site = make_site()
    leave(site)
    said, key = statement(site), PublicKey(site.public_key)
    assert is_signed(said, key)
    assert not is_signed({**said, "contained": {"run-9": {}}}, key)
    assert not is_signed(said, PublicKey(make_site("other").public_key))


def test_every_run_is_refused_afterwards_and_the_ledger_is_kept(make_site, make_request):
    site = make_site()
    answer(site, Kind.TRAIN, *make_request(1))
    before = (site.root / "ledger.jsonl").read_bytes()
    leave(site)
    assert answer(site, Kind.TRAIN, *make_request(1)).reply.refusal == "approval"
    assert (site.root / "ledger.jsonl").read_bytes() == before


def test_after_the_keys_are_destroyed_nothing_is_signed_and_the_budget_can_still_be_read(make_site, make_request):
    site = make_site()
    answer(site, Kind.TRAIN, *make_request(1))
    rotate_key(site.root)
    (site.root / "node.key").write_text("the node's")
    leave(site, destroy=True)
    assert not [path for path in site.root.iterdir() if path.name in {"key.pem", "key.next.pem", "node.key"}]
    assert is_signed(statement(site), PublicKey(statement(site)["public_key"]))
    now = Site.open(site.root)
    assert answer(now, Kind.TRAIN, *make_request(2)).reply.refusal == "site"
    assert budget_of(now).total.zero_out > 0.0


def test_keys_are_not_destroyed_under_a_site_that_answers(make_site):
    site = make_site()
    with site.open_ledger(), pytest.raises(LedgerError, match="another process"):
        leave(site, destroy=True)
    assert (site.root / "key.pem").exists()
