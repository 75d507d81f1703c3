"""Founding makes everything or nothing, overwrites nothing, and keeps secrets to itself; renewal keeps the CA."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

import server.founding
from mmrec_model.errors import BundleSignatureError, ConfigError, FeatureError, MmrecError, TrustError, UsageError
from mmrec_model.features.folder import SIGNATURE, open_bundle
from mmrec_model.features.signature import check_signature, sign_bundle
from mmrec_model.federation_file import FederationFile, read_federation
from mmrec_model.installed_code import code_digest
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.protocol import PROTOCOL_VERSION
from server.certificates import CA_DAYS, names_of
from server.founding import expiry_warnings, found_federation, renew_certificate, renewal_is_due
from server.sites import coordinator_key

NOW = datetime(2026, 5, 1, tzinfo=UTC)
Founded = tuple[Path, FederationFile]
SECRETS = {"ca.key", "server.key", "superexec.secret", "key.pem"}
PUBLIC = {"ca.crt", "server.crt", "federation.json"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def found(folder: Path, bundle: Path, **changes: object) -> FederationFile:
    values = {"name": "shops", "address": "127.0.0.1:8443", "names": [], "features": bundle, "now": NOW, **changes}
    return found_federation(folder, **values)


def test_the_folder_holds_these_files_and_the_secret_ones_are_the_owners(founded: Founded) -> None:
    folder, _ = founded
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(SECRETS, 0o600) | dict.fromkeys(PUBLIC, 0o644)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len((folder / "superexec.secret").read_bytes()) == 32


def test_the_federation_file_states_what_is_there_and_no_secret(founded: Founded, bundle: Path) -> None:
    folder, file = founded
    assert read_federation(folder / "federation.json") == file
    key = coordinator_key(folder)
    assert file.coordinator_key == key.public.hexadecimal
    assert (file.features_digest, file.items) == (open_bundle(bundle).digest, 4)
    assert (file.code_digest, file.protocol_version) == (code_digest(), PROTOCOL_VERSION)
    assert file.ca_certificate.encode() == (folder / "ca.crt").read_bytes()
    check_signature(bundle, open_bundle(bundle), key.public)
    text = (folder / "federation.json").read_bytes()
    assert b"PRIVATE" not in text
    assert (folder / "superexec.secret").read_bytes() not in text


def test_two_foundings_share_no_key(tmp_path: Path, founded: Founded, bundle: Path) -> None:
    (bundle / SIGNATURE).unlink()
    found(tmp_path / "second", bundle)
    first, second = contents(founded[0]), contents(tmp_path / "second")
    assert [name for name in first if first[name] == second[name]] == []


def test_a_second_founding_is_refused_and_changes_nothing(founded: Founded, bundle: Path) -> None:
    before = contents(founded[0])
    with pytest.raises(ConfigError, match="founded before"):
        found(founded[0], bundle)
    assert contents(founded[0]) == before


def test_what_is_left_of_a_founding_that_was_cut_short_is_named_and_kept(founded: Founded, bundle: Path) -> None:
    (founded[0] / "federation.json").unlink()
    before = contents(founded[0])
    with pytest.raises(ConfigError, match="cut short"):
        found(founded[0], bundle)
    assert contents(founded[0]) == before


def test_a_key_that_the_coordinator_has_already_is_kept(tmp_path: Path, bundle: Path) -> None:
    key = coordinator_key(tmp_path / "c")
    sign_bundle(bundle, key)
    signature = (bundle / SIGNATURE).read_bytes()
    assert found(tmp_path / "c", bundle).coordinator_key == key.public.hexadecimal
    assert (bundle / SIGNATURE).read_bytes() == signature


def test_a_bundle_that_another_coordinator_signed_is_refused_and_nothing_is_left(tmp_path: Path, bundle: Path) -> None:
    sign_bundle(bundle, SigningKey.from_seed(b"o" * 32))
    signature = (bundle / SIGNATURE).read_bytes()
    with pytest.raises(BundleSignatureError, match="not by this coordinator"):
        found(tmp_path / "c", bundle)
    assert contents(tmp_path / "c") == {}
    assert (bundle / SIGNATURE).read_bytes() == signature


def test_a_founding_that_fails_at_its_last_file_leaves_nothing(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes, *, mode: int) -> None:
        if path.name == "federation.json":
            raise ConfigError("the disk is full", remedy="Free space")
        create(path, content, mode=mode)

    create = server.founding.create_file
    monkeypatch.setattr(server.founding, "create_file", full)
    with pytest.raises(ConfigError, match="full"):
        found(tmp_path / "c", bundle)
    assert contents(tmp_path / "c") == {}
    assert not (bundle / SIGNATURE).exists()
    monkeypatch.undo()
    assert found(tmp_path / "c", bundle).name == "shops"


def test_a_folder_that_cannot_be_made_is_a_typed_refusal(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MmrecError, match="cannot be"):
        found(tmp_path / "file" / "c", bundle)


def test_a_damaged_bundle_is_refused_before_anything_is_made(tmp_path: Path, bundle: Path) -> None:
    (bundle / "text.npy").write_bytes(b"x")
    with pytest.raises(FeatureError):
        found(tmp_path / "c", bundle)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "changes", [{"address": "nohost"}, {"address": "h:99999"}, {"names": ["a/b"]}, {"names": ["h:1"]}, {"names": [""]}]
)
def test_names_that_cannot_be_are_usage_errors(changes: dict[str, object], tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(UsageError):
        found(tmp_path / "c", bundle, **changes)
    assert not (tmp_path / "c").exists()


def test_renewal_changes_the_certificate_alone(founded: Founded) -> None:
    folder, file = founded
    before, later = contents(folder), NOW + timedelta(days=340)
    assert not renewal_is_due(folder, NOW)
    assert renewal_is_due(folder, later)
    assert len(expiry_warnings(folder, later)) == 1
    made = renew_certificate(folder, now=later)
    assert {name for name, content in contents(folder).items() if content != before[name]} == {"server.crt"}
    assert set(names_of(made)) == {"127.0.0.1", "localhost"}
    assert made.not_valid_after_utc == later + timedelta(days=365)
    assert expiry_warnings(folder, later) == []
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(file.ca_certificate.encode()))


def test_renewal_can_change_key_and_names(founded: Founded) -> None:
    folder = founded[0]
    before = contents(folder)
    made = renew_certificate(folder, now=NOW, names=["fl.example.org"], new_key=True)
    changed = {name for name, content in contents(folder).items() if content != before[name]}
    assert changed == {"server.crt", "server.key"}
    assert set(names_of(made)) == {"127.0.0.1", "fl.example.org"}
    assert stat.S_IMODE((folder / "server.key").stat().st_mode) == 0o600


def test_renewal_needs_a_founded_folder_a_living_ca_and_a_secret_key(founded: Founded, tmp_path: Path) -> None:
    folder = founded[0]
    with pytest.raises(ConfigError, match="mmrec federation init"):
        renew_certificate(tmp_path, now=NOW)
    with pytest.raises(TrustError, match="valid from"):
        renew_certificate(folder, now=NOW + timedelta(days=CA_DAYS + 1))
    (folder / "ca.key").chmod(0o640)
    with pytest.raises(ConfigError, match="read by others"):
        renew_certificate(folder, now=NOW)
    (folder / "ca.key").chmod(0o600)
    (folder / "ca.key").write_bytes(b"x")
    with pytest.raises(ConfigError, match="no EC private key"):
        renew_certificate(folder, now=NOW)


def test_the_end_of_the_ca_is_warned_of_too(founded: Founded) -> None:
    warnings = expiry_warnings(founded[0], NOW + timedelta(days=CA_DAYS - 5))
    assert len(warnings) == 2
    assert "CA" in warnings[0]
