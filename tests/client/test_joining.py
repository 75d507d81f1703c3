"""A site is founded whole or not at all, from a file that was compared, and enrols so that its ledger is held to it."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

import client.joining
from client.approval import approve, bind
from client.coordinator import Challenge, show
from client.joining import Application, found_site, founding_policy, trust
from client.policy import Policy
from client.pricing import price_of_mechanisms
from client.release import answer
from client.rotation import signing_key
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.data.writing import write_partner
from mmrec_model.enrolment_file import EnrolmentFile, read_enrolment
from mmrec_model.errors import (
    AdmissionError,
    ConfigError,
    DataError,
    FeatureError,
    MmrecError,
    ProtocolError,
    TrustError,
    UsageError,
)
from mmrec_model.features.signature import sign_bundle
from mmrec_model.federation_file import FederationFile, read_federation, sign_federation
from mmrec_model.installed_code import code_digest
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.protocol import Arrays, Kind, Request
from server.certificates import CA_DAYS
from server.founding import found_federation
from server.operation import enrol_from_file
from server.sites import Sites, coordinator_key

NOW = datetime(2026, 5, 1, tzinfo=UTC)
N_USERS = 60


@pytest.fixture
def coordinator(tmp_path: Path, catalogue: Path) -> Path:
    """A founded coordinator; the bundle lies in `bundle` beside it."""
    shutil.copytree(catalogue / "features", tmp_path / "bundle")
    folder = tmp_path / "coordinator"
    found_federation(folder, name="shops", address="127.0.0.1:8443", names=[], features=tmp_path / "bundle", now=NOW)
    return folder


@pytest.fixture
def federation(coordinator: Path) -> FederationFile:
    """What the coordinator hands out."""
    return read_federation(coordinator / "federation.json")


@pytest.fixture
def application(tmp_path: Path, catalogue: Path, federation: FederationFile) -> Application:
    """A partner of 60 users, whose policy allows the small plan of these tests."""
    rng = np.random.default_rng(1)
    rows = [
        (f"secret-user-{user}", f"i{item}", 1_600_000_000.0 + place)
        for user in range(N_USERS)
        for place, item in enumerate(rng.choice(40, size=6, replace=False))
    ]
    names = ("user_id", "item_id", "timestamp")
    table = pa.table({name: [row[column] for row in rows] for column, name in enumerate(names)})
    write_partner(tmp_path / "data", interactions=table, items=None, users=None)
    policy = founding_policy(federation, epsilon=8.0, delta=1e-3, cohort=1)
    return Application("north", tmp_path / "data", catalogue / "items", policy, tmp_path / "bundle")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the site will be."""
    return tmp_path / "sites" / "north"


@pytest.fixture
def enrolment(root: Path, federation: FederationFile, application: Application) -> EnrolmentFile:
    """Of a founded site."""
    return found_site(root, federation, "fingerprint", application, now=NOW)[0]


def believed(
    coordinator: Path, fingerprint: str | None, *, first_use: bool = False, now: datetime = NOW
) -> FederationFile:
    return trust(coordinator / "federation.json", fingerprint, first_use=first_use, now=now)[0]


def test_the_federation_file_is_believed_by_its_fingerprint_alone(
    coordinator: Path, federation: FederationFile
) -> None:
    assert believed(coordinator, federation.fingerprint) == federation
    with pytest.raises(UsageError, match="without its fingerprint"):
        believed(coordinator, None)
    with pytest.raises(TrustError, match="Do not join"):
        believed(coordinator, "0" * 32)


def test_belief_at_first_sight_must_be_said_and_is_not_a_second_way_beside_a_fingerprint(
    coordinator: Path, federation: FederationFile
) -> None:
    path = coordinator / "federation.json"
    assert trust(path, None, first_use=True, now=NOW) == (federation, "first_use")
    with pytest.raises(UsageError, match="both"):
        believed(coordinator, federation.fingerprint, first_use=True)


@pytest.mark.parametrize("first_use", [True, False])
def test_a_file_that_was_changed_on_its_way_is_never_believed(
    first_use: bool, coordinator: Path, federation: FederationFile
) -> None:
    forged = federation.model_copy(update={"address": "evil.example.org:8443"})
    (coordinator / "federation.json").write_bytes(forged.to_bytes())
    with pytest.raises(TrustError, match="not signed"):
        believed(coordinator, None if first_use else forged.fingerprint, first_use=first_use)


@pytest.mark.parametrize("days", [-1, CA_DAYS + 1])
def test_a_ca_outside_its_dates_is_refused(days: int, coordinator: Path, federation: FederationFile) -> None:
    with pytest.raises(TrustError, match="valid from"):
        believed(coordinator, federation.fingerprint, now=NOW + timedelta(days=days))


def test_another_protocol_is_refused_before_a_ledger_is_opened_for_it(
    coordinator: Path, federation: FederationFile
) -> None:
    facts = federation.model_dump(exclude={"signature", "format", "coordinator_key"}) | {"protocol_version": 99}
    newer = sign_federation(facts, coordinator_key(coordinator))
    (coordinator / "federation.json").write_bytes(newer.to_bytes())
    with pytest.raises(ProtocolError, match="99"):
        believed(coordinator, newer.fingerprint)


def test_the_site_holds_these_files_and_the_secret_ones_are_the_owners(root: Path, enrolment: EnrolmentFile) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in root.iterdir() if path.is_file()}
    secret = {"key.pem", "salt.bin", "node.key", "ledger.jsonl", "ledger.head"}
    public = {"site.toml", "policy.toml", "federation.json", "trust.json", "enrolment.json", "node.pub"}
    assert modes == dict.fromkeys(secret, 0o600) | dict.fromkeys(public, 0o644)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_the_site_opens_with_its_data_its_bundle_and_its_coordinator(
    root: Path, federation: FederationFile, enrolment: EnrolmentFile
) -> None:
    site = Site.open(root)
    assert (len(site.dataset), site.bundle.digest) == (N_USERS, federation.features_digest)
    site.check_features(federation.public_key)
    with site.open_ledger() as ledger:
        assert ledger.history.keys["server"] == federation.public_key
        assert ledger.head.hash == enrolment.ledger_opening
    assert enrolment.site_key == site.public_key
    assert read_federation(root / "federation.json") == federation
    trusted = json.loads((root / "trust.json").read_bytes())
    assert trusted == {"federation": federation.digest, "trusted": "fingerprint", "at": "2026-05-01T00:00:00+00:00"}


def test_what_goes_to_the_coordinator_holds_nothing_private(root: Path, enrolment: EnrolmentFile) -> None:
    text = (root / "enrolment.json").read_text()
    allowed = {"format", "federation", "partner", "users", "site_key", "node_key"}
    allowed |= {"ledger_opening", "opening_nonce", "opening_signature", "signature"}
    assert set(json.loads(text)) == allowed
    opening = json.loads((root / "ledger.jsonl").read_text().splitlines()[0])["body"]
    private = ["secret-user", str(root), opening["dataset_commitment"], opening["policy_digest"], "epsilon", "PRIVATE"]
    assert [one for one in private if one in text] == []


def test_the_node_key_is_one_that_flower_takes(root: Path, enrolment: EnrolmentFile) -> None:
    private = load_ssh_private_key((root / "node.key").read_bytes(), password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)
    assert private.public_key() == load_ssh_public_key(enrolment.node_key.encode())
    assert (root / "node.pub").read_text() == f"{enrolment.node_key} north\n"


def test_a_new_policy_lets_out_no_metric_and_nothing_without_noise(federation: FederationFile) -> None:
    policy = founding_policy(federation, epsilon=4.0, delta=1e-5)
    assert policy == Policy(
        max_epsilon=4.0,
        minimum_cohort=2,
        allowed_features=(federation.features_digest,),
        allowed_code=(code_digest(),),
    )
    assert (policy.allowed_metrics, policy.allow_without_privacy) == ((), False)
    with pytest.raises(ConfigError):
        founding_policy(federation, epsilon=-1.0, delta=1e-5)


def test_a_second_founding_is_refused_and_changes_nothing(
    root: Path, federation: FederationFile, application: Application, enrolment: EnrolmentFile
) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="a site already"):
        found_site(root, federation, "fingerprint", application, now=NOW)
    (root / "enrolment.json").unlink()
    with pytest.raises(ConfigError, match="never ended"):
        found_site(root, federation, "fingerprint", application, now=NOW)
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert after == {path: content for path, content in before.items() if path.name != "enrolment.json"}


WRONG: dict[str, tuple[dict[str, object], type[MmrecError]]] = {
    "name": ({"name": "../north"}, UsageError),
    "data": ({"data": Path("/nowhere")}, DataError),
    "delta": ({"policy": Policy(max_delta=0.02)}, ConfigError),
    "users": ({"policy": Policy(max_delta=1e-3, minimum_users=61)}, ConfigError),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_an_application_that_cannot_be_leaves_nothing(
    case: str, root: Path, federation: FederationFile, application: Application
) -> None:
    changes, error = WRONG[case]
    with pytest.raises(error):
        found_site(root, federation, "fingerprint", replace(application, **changes), now=NOW)
    assert not root.exists()


def test_another_catalogue_or_bundle_than_the_federations_is_refused(
    root: Path, tmp_path: Path, federation: FederationFile, application: Application
) -> None:
    shutil.copytree(application.catalogue, tmp_path / "reversed")
    _reverse_items(tmp_path / "reversed")
    with pytest.raises(DataError, match="the first that differs"):
        found_site(root, federation, "fingerprint", replace(application, catalogue=tmp_path / "reversed"), now=NOW)
    smaller = federation.model_copy(update={"items": 39})
    with pytest.raises(DataError, match="the federation's has 39"):
        found_site(root, smaller, "fingerprint", application, now=NOW)
    other = federation.model_copy(update={"features_digest": "0" * 64})
    with pytest.raises(FeatureError, match="the federation uses"):
        found_site(root, other, "fingerprint", application, now=NOW)
    sign_bundle(application.features, SigningKey.from_seed(b"o" * 32))
    with pytest.raises(FeatureError, match="does not fit"):
        found_site(root, federation, "fingerprint", application, now=NOW)
    assert not root.exists()


def _reverse_items(folder: Path) -> None:
    (path,) = folder.glob("items.*")
    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(len(table))))), path)


@pytest.mark.parametrize("existed", [True, False])
def test_a_founding_that_fails_at_its_last_step_leaves_nothing_and_can_be_repeated(
    existed: bool,
    root: Path,
    federation: FederationFile,
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, content: bytes) -> None:
        if path.name == "enrolment.json":
            raise OSError(28, "No space left on device")
        write(path, content)

    if existed:
        root.mkdir(parents=True)
    write = client.joining.write_atomically
    monkeypatch.setattr(client.joining, "write_atomically", full)
    with pytest.raises(MmrecError, match="No space left"):
        found_site(root, federation, "fingerprint", application, now=NOW)
    assert root.exists() == existed
    assert not existed or list(root.iterdir()) == []
    monkeypatch.undo()
    assert found_site(root, federation, "fingerprint", application, now=NOW)[0].users == N_USERS


def test_a_folder_that_cannot_be_made_is_a_typed_refusal(
    tmp_path: Path, federation: FederationFile, application: Application
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "north"):
        with pytest.raises(MmrecError):
            found_site(root, federation, "fingerprint", application, now=NOW)


Ask = Callable[[Kind], tuple[Request, Arrays]]


@pytest.fixture
def ask(
    coordinator: Path, root: Path, enrolment: EnrolmentFile, make_request: Callable[..., tuple[Request, Arrays]]
) -> Ask:
    """Requests of the coordinator, which has enrolled the site by its file, of a run that the site approved."""
    file = read_enrolment(root / "enrolment.json", fingerprint=enrolment.fingerprint)
    enrol_from_file(coordinator, file, now=NOW)
    site, config = Site.open(root), RunConfig.model_validate_json(make_request(0)[0].plan)
    approve(site, config, bind(site, site.inspect_ledger().history, config))

    def make(kind: Kind) -> tuple[Request, Arrays]:
        plain, arrays = make_request(0)
        with Sites.open(coordinator) as sites:
            return (sites.describe(plain) if kind is Kind.DESCRIBE else sites.address(kind, plain, "north")), arrays

    return make


def admit(coordinator: Path, reply: object) -> None:
    with Sites.open(coordinator) as sites:
        sites.admit(reply)


def test_a_new_site_answers_nothing_before_its_operator_has_approved_the_run(
    coordinator: Path, root: Path, ask: Ask
) -> None:
    (root / "approvals.jsonl").unlink()
    assert answer(Site.open(root), Kind.DESCRIBE, *ask(Kind.DESCRIBE)).reply.refusal == "approval"


def test_a_site_that_enrolled_by_file_takes_part(coordinator: Path, root: Path, ask: Ask) -> None:
    for kind in (Kind.DESCRIBE, Kind.POPULARITY):
        reply = answer(Site.open(root), kind, *ask(kind)).reply
        assert reply.refusal == ""
        admit(coordinator, reply)


def test_a_ledger_opened_anew_with_the_same_key_is_refused_by_both_sides_although_none_was_shown_before(
    coordinator: Path, root: Path, ask: Ask
) -> None:
    honest = answer(Site.open(root), Kind.DESCRIBE, *ask(Kind.DESCRIBE)).reply
    body = json.loads((root / "ledger.jsonl").read_text().splitlines()[0])["body"]
    named = {name: value for name, value in body.items() if name not in {"key_id", "public_key"}}
    for name in ("ledger.jsonl", "ledger.head"):
        (root / name).unlink()
    fresh = {**named, "dataset_commitment": "0" * 64, "epsilon_budget": 9.0, "delta": 1e-3}
    Ledger.create(root / "ledger.jsonl", signing_key(root), fresh, price=price_of_mechanisms).close()
    assert answer(Site.open(root), Kind.DESCRIBE, *ask(Kind.DESCRIBE)).reply.refusal == "fork"
    request, _ = ask(Kind.POPULARITY)
    with Site.open(root).open_ledger() as ledger:
        shown = show(ledger, Challenge(request.nonce, 0))
    forged = replace(honest, ledger_head=shown.ledger_head, head=shown.head, growth=shown.growth)
    with pytest.raises(AdmissionError) as error:
        admit(coordinator, forged)
    assert error.value.reason == "fork"
