"""A process keeps the sites it has read, few of them, and never one whose files have changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from flwr.app import Message

from client import app
from client.app import app as client_app
from client.open_sites import OpenSites
from client.site import Site
from mmrec_model.errors import ConfigError
from mmrec_model.protocol import FIELDS, Arrays, Kind, Request
from server.messages import pack
from simulations.loopback import LoopbackGrid


@pytest.fixture
def sites() -> OpenSites:
    return OpenSites(most=2)


@pytest.fixture
def root(make_site, catalogue: Path, tmp_path: Path) -> Path:
    """A site whose public files are its own, to be changed."""
    folder = make_site().root
    shutil.copytree(catalogue, folder / "public")
    settings = (folder / "site.toml").read_text().replace(str(catalogue), "public")
    (folder / "site.toml").write_text(settings)
    return folder


def test_a_site_is_read_once_and_the_message_after_finds_it(sites: OpenSites, root: Path) -> None:
    first = sites.at(root)
    assert first.dataset is sites.at(root).dataset
    assert first.items is sites.at(root).items


def written_again(path: Path) -> None:
    """Same length, same time stamps that a program may set, another file."""
    found, content = path.stat(), path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize(
    "name",
    [
        "site.toml",
        "policy.toml",
        "data/interactions.parquet",
        "public/items/items.parquet",
        "public/features/manifest.json",
        "public/features/text.npy",
    ],
)
def test_a_site_with_a_changed_file_is_read_again(sites: OpenSites, root: Path, name: str) -> None:
    first = sites.at(root)
    held = first.dataset, first.bundle
    written_again(root / name)
    again = sites.at(root)
    assert again is not first
    assert again.dataset is not held[0]
    assert (again.bundle is held[1]) == (not name.startswith("public/features"))
    assert sites.at(root) is again


@pytest.mark.parametrize("name", ["data/users.csv", "data/interactions.csv", "public/features/manifest.sig"])
def test_a_site_with_a_new_file_is_read_again(sites: OpenSites, root: Path, name: str) -> None:
    first = sites.at(root)
    (root / name).write_text("user_id\nu1\n")
    assert sites.at(root) is not first


def test_what_a_message_writes_does_not_change_the_site(sites: OpenSites, root: Path) -> None:
    first = sites.at(root)
    with first.diary("run", 1, "train"), first.open_ledger():
        pass
    assert sites.at(root) is first


def test_settings_that_became_unreadable_are_an_error_and_nothing_is_kept(sites: OpenSites, root: Path) -> None:
    sites.at(root)
    content = (root / "site.toml").read_text()
    (root / "site.toml").write_text("name =")
    with pytest.raises(ConfigError):
        sites.at(root)
    (root / "site.toml").write_text(content)
    assert sites.at(root).config.name == "north"


def test_no_more_than_the_bound_are_kept_and_the_longest_unused_goes_first(sites: OpenSites, make_site) -> None:
    roots = [make_site(name).root for name in ("north", "south", "west")]
    north, south = sites.at(roots[0]), sites.at(roots[1])
    assert sites.at(roots[0]) is north
    sites.at(roots[2])
    assert sites.at(roots[0]) is north
    assert sites.at(roots[1]) is not south


def test_fifty_partners_in_turn_are_read_once_each(make_site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert app.sites.most >= 50
    sites, roots, opened = OpenSites(app.sites.most), [make_site(f"s{n}").root for n in range(50)], list[Path]()
    real = Site.open
    monkeypatch.setattr(Site, "open", lambda path: (opened.append(path), real(path))[1])
    for _ in range(3):
        for path in roots:
            sites.at(path)
    assert sorted(set(opened)) == sorted(roots)
    assert len(opened) == 2 * len(roots), "once for the marks, once for the site"


def asked(root: Path, kind: Kind, request: Request, arrays: Arrays | None = None) -> dict[str, object]:
    grid = LoopbackGrid(client_app, [root], {})
    content = pack(request, arrays or {})
    (reply,) = grid.send_and_receive([Message(content, 100, kind.value, ttl=600.0, group_id="1")])
    return dict(reply.content.config_records[FIELDS])


def test_a_policy_that_is_tightened_counts_from_the_next_message_on(make_site, make_request) -> None:
    root = make_site().root
    assert asked(root, Kind.TRAIN, *make_request(1))["refusal"] == ""
    lines = (root / "policy.toml").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("allowed_releases")]
    (root / "policy.toml").write_text("\n".join([*lines, f"allowed_releases = {json.dumps(['popularity'])}"]))
    assert asked(root, Kind.TRAIN, *make_request(2))["refusal"] == "release"


def test_data_that_was_exchanged_under_a_running_process_is_not_served_from_memory(make_site, make_request) -> None:
    root, other = make_site().root, make_site("other", users=59).root
    assert asked(root, Kind.TRAIN, *make_request(1))["refusal"] == ""
    (other / "data" / "interactions.parquet").replace(root / "data" / "interactions.parquet")
    assert asked(root, Kind.TRAIN, *make_request(2))["refusal"] == "site"


def test_the_end_of_a_run_lets_go_of_the_site(make_site, make_request) -> None:
    root = make_site().root
    asked(root, Kind.DESCRIBE, *make_request(0))
    held = app.sites.at(root)
    assert asked(root, Kind.POPULARITY, *make_request(0))["refusal"] == ""
    assert app.sites.at(root) is held
    assert asked(root, Kind.RECEIPT, *make_request(0))["refusal"] == ""
    assert app.sites.at(root) is not held
