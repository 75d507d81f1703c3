"""A site's bundle is the federation's, byte for byte, of the site's own items, and takes its place in one step."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import client.site_features
from client.joining import Application, found_site, founding_policy
from client.rotation import accept_server_key, server_key_place
from client.site import Site
from client.site_features import SiteFeatures
from mmrec_model.canonical import canonical_json
from mmrec_model.config import EncoderConfig, TransformConfig
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.errors import ConfigError, FeatureError, UsageError
from mmrec_model.features.bundle import build_bundle
from mmrec_model.features.folder import FeatureBundle, open_bundle
from mmrec_model.features.rebuild import sources_of
from mmrec_model.features.signature import sign_bundle
from mmrec_model.federation_file import read_federation
from mmrec_model.privacy.keys import SigningKey
from server.founding import found_federation
from server.operation import begin_rotation, end_rotation, sign_rotation
from server.sites import coordinator_key

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def bundle(tmp_path: Path, small_partner: Path) -> Path:
    """The pictures of the small partner's catalogue, by the embedded encoder, signed by the coordinator."""
    build_bundle(
        open_catalogue(small_partner),
        tmp_path / "bundle",
        encoders=[EncoderConfig(modality="image")],
        transform=TransformConfig(dims=4, quality=True, near_duplicate=0.9),
        store=tmp_path / "vectors",
    )
    found_federation(tmp_path / "coordinator", name="s", address="a:1", names=[], features=tmp_path / "bundle", now=NOW)
    return tmp_path / "bundle"


@pytest.fixture
def place(tmp_path: Path, small_partner: Path, bundle: Path) -> SiteFeatures:
    """A site without a bundle."""
    federation = read_federation(tmp_path / "coordinator" / "federation.json")
    policy = founding_policy(federation, epsilon=4.0, delta=1e-5)
    application = Application("north", small_partner, small_partner, policy)
    found_site(tmp_path / "site", federation, "first_use", application, now=NOW)
    return SiteFeatures(tmp_path / "site")


def test_the_federations_bundle_is_copied_and_opens_with_the_site(
    tmp_path: Path, bundle: Path, place: SiteFeatures
) -> None:
    place.install(bundle)
    shutil.rmtree(bundle)
    site = Site.open(tmp_path / "site")
    assert site.bundle.digest == place.federation.features_digest
    site.check_features(place.federation.public_key)
    assert not [path for path in (tmp_path / "site").iterdir() if path.name.startswith(".")]


def test_a_damaged_or_unsigned_or_foreign_bundle_is_not_installed(
    tmp_path: Path, bundle: Path, place: SiteFeatures
) -> None:
    copies = [Path(shutil.copytree(bundle, tmp_path / name)) for name in ("damaged", "unsigned", "foreign", "stranger")]
    (copies[0] / "image.npy").write_bytes(b"x")
    (copies[1] / "manifest.sig").unlink()
    manifest = json.loads((copies[2] / "manifest.json").read_bytes())
    (copies[2] / "manifest.json").write_bytes(canonical_json({**manifest, "note": "another"}))
    sign_bundle(copies[3], SigningKey.from_seed(b"o" * 32))
    for copy in copies:
        with pytest.raises(FeatureError):
            place.install(copy)
    assert not (tmp_path / "site" / "features").exists()


def test_another_bundle_is_replaced_on_request_alone(tmp_path: Path, bundle: Path, place: SiteFeatures) -> None:
    target = tmp_path / "site" / "features"
    target.mkdir()
    (target / "own").write_text("precious")
    with pytest.raises(FeatureError, match="--replace"):
        place.install(bundle)
    assert (target / "own").read_text() == "precious"
    assert place.install(bundle, replace=True).name == "REPLACED"
    assert not (target / "own").exists()
    assert open_bundle(target).digest == place.federation.features_digest


def test_after_a_new_key_of_the_coordinator_its_new_signature_is_taken_over(
    tmp_path: Path, bundle: Path, place: SiteFeatures
) -> None:
    coordinator, root = tmp_path / "coordinator", tmp_path / "site"
    place.install(bundle)
    new_key = begin_rotation(coordinator)
    signed = sign_rotation(coordinator, server_key_place(root, new_key))
    accept_server_key(root, new_key, signed["old_signature"], signed["new_signature"])
    end_rotation(coordinator)
    with pytest.raises(FeatureError, match="does not fit"):
        SiteFeatures(root).install(bundle)
    sign_bundle(bundle, coordinator_key(coordinator))
    assert SiteFeatures(root).install(bundle).name == "SIGNATURE"
    Site.open(root).check_features(new_key)


def test_a_bundle_that_is_built_here_bit_for_bit_needs_the_manifest_alone(
    tmp_path: Path, bundle: Path, place: SiteFeatures
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("manifest.json", "manifest.sig"):
        shutil.copyfile(bundle / name, few / name)
    rebuilt = place.rebuild(few, tmp_path / "own", sources={}, store=tmp_path / "own-vectors")
    assert rebuilt.differences is None
    place.install(rebuilt.folder)
    assert Site.open(tmp_path / "site").bundle.digest == place.federation.features_digest


@pytest.mark.parametrize(("noise", "accepted"), [(1e-6, True), (0.05, False)])
def test_a_bundle_that_differs_by_rounding_is_the_coordinators_and_one_that_differs_by_more_is_refused(  # noqa: PLR0917
    noise: float, accepted: bool, tmp_path: Path, bundle: Path, place: SiteFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = client.site_features.rebuild_bundle

    def elsewhere(*args: object, **kwargs: object) -> FeatureBundle:
        own = honest(*args, **kwargs)
        vectors = {name: array + np.float32(noise) for name, array in own.vectors.items()}
        return replace(own, vectors=vectors, digest="e" * 64)

    monkeypatch.setattr(client.site_features, "rebuild_bundle", elsewhere)

    def rebuild() -> object:
        return place.rebuild(bundle, tmp_path / "own", sources={}, store=tmp_path / "own-vectors")

    if accepted:
        rebuilt = rebuild()
        assert rebuilt.folder == bundle
        assert 0.0 < rebuilt.differences["image"] < 1e-3
        (bundle / "present.npy").unlink()
        with pytest.raises(FeatureError, match="not here"):
            rebuild()
    else:
        with pytest.raises(FeatureError, match="differ from those built here"):
            rebuild()


def test_a_manifest_of_another_bundle_is_not_built(tmp_path: Path, bundle: Path, place: SiteFeatures) -> None:
    (bundle / "manifest.json").write_bytes(b"{}")
    with pytest.raises(FeatureError, match="the federation uses"):
        place.rebuild(bundle, tmp_path / "own", sources={}, store=tmp_path / "own-vectors")


def test_a_site_that_joined_no_federation_has_no_bundle_to_compare_with(tmp_path: Path, place: SiteFeatures) -> None:
    (tmp_path / "site" / "federation.json").unlink()
    with pytest.raises(ConfigError, match="mmrec site init"):
        SiteFeatures(tmp_path / "site")


@pytest.mark.parametrize("asked", [["smell=x"], ["text"], ["text="], ["text=a", "text=b"]])
def test_sources_of_encoders_are_one_for_each_medium(asked: list[str]) -> None:
    assert sources_of(["text=a", "image=b=c"]) == {"text": "a", "image": "b=c"}
    with pytest.raises(UsageError):
        sources_of(asked)
