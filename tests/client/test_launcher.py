"""The launcher answers with installed code alone, for allowed bundles alone, for its own site alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import client.app
from client.confinement import (
    BundleRefused,
    PlaceRefused,
    clean_environment,
    require_bundle,
    require_place,
)
from client.launcher import Gate
from client.policy import Policy
from mmrec_model.errors import ConfigError, MmrecError

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = b"any bytes"
DIGEST = hashlib.sha256(BUNDLE).hexdigest()


def policy_file(folder: Path, *allowed: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(f"allowed_bundles = {json.dumps(allowed)}\n")
    return path


def test_a_new_policy_allows_no_bundle_and_a_listed_one_only_with_exactly_its_bytes() -> None:
    with pytest.raises(BundleRefused):
        require_bundle(Policy(), BUNDLE)
    assert require_bundle(Policy(allowed_bundles=(DIGEST,)), BUNDLE) == DIGEST
    assert require_bundle(Policy(allowed_bundles=("*",)), b"other") == hashlib.sha256(b"other").hexdigest()
    for changed in (BUNDLE + b" ", BUNDLE[:-1], b""):
        with pytest.raises(BundleRefused):
            require_bundle(Policy(allowed_bundles=(DIGEST,)), changed)


def test_the_refusal_of_a_bundle_says_the_same_whatever_came_and_whoever_refuses(tmp_path: Path) -> None:
    texts = set()
    for content in (b"one", b"two"):
        with pytest.raises(BundleRefused) as refused:
            Gate(tmp_path, policy_file(tmp_path, DIGEST)).install(content)
        texts.add(str(refused.value))
    assert len(texts) == 1
    assert str(tmp_path) not in texts.pop()


def test_a_policy_that_cannot_be_read_refuses_without_naming_a_place(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("max_epsilon = -1\n")
    with pytest.raises(ConfigError, match="cannot answer") as refused:
        Gate(tmp_path, tmp_path / "policy.toml").install(BUNDLE)
    assert "policy" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_nothing_is_loaded_or_installed_before_the_bundle_was_compared(tmp_path: Path) -> None:
    gate = Gate(tmp_path, policy_file(tmp_path, DIGEST))
    with pytest.raises(ConfigError, match="cannot answer"):
        gate.loader()("mmrec/mmrec-run", "1.0.0", DIGEST)
    with pytest.raises(BundleRefused):
        gate.install(b"another")
    with pytest.raises(ConfigError, match="cannot answer"):
        gate.loader()("mmrec/mmrec-run", "1.0.0", DIGEST)
    with pytest.raises(ConfigError, match="cannot answer"):
        gate.refuse_installation("app")


def test_the_installed_app_answers_and_only_for_the_site_that_the_partner_fixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(client.app, "app", lambda message, context: asked.append((message, context)) or "answer")
    gate = Gate(tmp_path, policy_file(tmp_path, DIGEST))
    gate.install(BUNDLE, skip_prompt=True)
    app = gate.loader(default_app_ref="", app_path=None, multi_app=True)("mmrec/mmrec-run", "1.0.0", DIGEST)
    own = SimpleNamespace(node_config={"site": str(tmp_path)}, run_config={"workspace": "/coordinator"})
    assert app(message="request", context=own) == "answer"
    assert asked == [("request", own)]
    with pytest.raises(PlaceRefused):
        app(message="request", context=SimpleNamespace(node_config={"site": "/another"}, run_config={}))
    assert len(asked) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "policy.toml"]


@pytest.mark.parametrize(
    ("node", "run"),
    [
        ({}, {}),
        ({"site": "/another"}, {}),
        ({"site": "."}, {}),
        ({"site": 3}, {}),
        ({"partition-id": 0}, {"workspace": "/w"}),
        ({"site": "OWN/../another"}, {}),
        ({"site": "OWN"}, {"site": "/another"}),
        ({"site": "OWN"}, {"site": "OWN"}),
    ],
)
def test_a_place_that_node_or_run_name_is_refused_unless_it_is_the_partners_own(
    tmp_path: Path, node: dict[str, object], run: dict[str, object]
) -> None:
    own = {key: value.replace("OWN", str(tmp_path)) if isinstance(value, str) else value for key, value in node.items()}
    with pytest.raises(PlaceRefused) as refused:
        require_place(tmp_path, own, run)
    assert str(tmp_path) not in str(refused.value)
    require_place(tmp_path, {"site": str(tmp_path)}, {"workspace": "/w"})


def test_tokens_and_passwords_of_the_environment_do_not_stay() -> None:
    kept = clean_environment({"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "PYTHONPATH": "/evil", "HTTPS_PROXY": "p"})
    assert kept == {"PATH": "/bin"}


def in_a_process(folder: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    line = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n{code}"
    environment = {"PATH": os.environ["PATH"], "SECRET": "x", **variables}
    return subprocess.run(
        [sys.executable, "-I", "-c", line], capture_output=True, text=True, env=environment, check=False
    )


def test_a_confined_process_has_no_other_variables_no_core_file_a_private_umask_and_the_sites_folder(
    tmp_path: Path,
) -> None:
    code = (
        "import os, resource\nfrom client.confinement import confine\nconfine()\n"
        "print(sorted(os.environ), resource.getrlimit(resource.RLIMIT_CORE), os.umask(0), os.getcwd())"
    )
    done = in_a_process(tmp_path, code, MMREC_SITE=str(tmp_path))
    assert done.stdout.strip() == f"['MMREC_SITE', 'PATH'] (0, 0) {0o077} {tmp_path}", done.stderr


@pytest.mark.parametrize("place", ["", "relative", "/no/such/folder"])
def test_a_launcher_without_a_site_does_not_start(tmp_path: Path, place: str) -> None:
    done = in_a_process(tmp_path, "from client.launcher import main\nmain()", MMREC_SITE=place)
    assert done.returncode != 0
    assert "MMREC_SITE does not name the site's folder" in done.stderr


def test_what_the_launcher_replaces_is_what_flower_calls() -> None:
    from client import launcher

    flower = Path(sys.modules["flwr"].__file__ or "").parent / "supernode" / "runtime" / "run_clientapp.py"
    text = flower.read_text()
    assert all(text.count(f"{name}(") == 1 for name in launcher._REPLACED)
    assert text.index("install_from_fab(") < text.index("get_load_client_app_fn(")
    assert issubclass(BundleRefused, MmrecError)
