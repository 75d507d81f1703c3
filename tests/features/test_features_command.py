"""`mmrec features`: a catalogue becomes a bundle, and a bundle a table; every documented command runs as written."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import av
import pytest
from PIL import Image

from mmrec_model import cli
from mmrec_model.features.folder import open_bundle

Run = Callable[..., tuple[int, str, str]]
PICTURES_ALONE = ("--encoder", "text=off", "--encoder", "audio=off", "--encoder", "video=off")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Call `mmrec` with the commands of pyproject.toml; returns exit status, stdout and stderr."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    target = project["entry-points"][cli.COMMAND_GROUP]["features"]
    monkeypatch.setattr(cli, "entry_points", lambda group: (EntryPoint("features", target, group),))
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path_factory.getbasetemp() / "command-vectors"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["mmrec", *arguments])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        shown = capsys.readouterr()
        return int(ending.value.code or 0), shown.out, shown.err

    return call


def test_every_documented_command_runs(run: Run, small_partner: Path, repository: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (repository / "docs/features.md").read_text(), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("mmrec features")]
    assert len(commands) >= 3
    for command in commands:
        words = [str(small_partner) if word == "DATA" else word for word in shlex.split(command, comments=True)[1:]]
        status, out, err = run(*words)
        assert status == 0, (command, out, err)


def test_a_report_shows_what_the_manifest_says(run: Run, small_partner: Path, tmp_path: Path) -> None:
    status, out, _ = run("features", "build", str(small_partner), "bundle", *PICTURES_ALONE)
    bundle = open_bundle(tmp_path / "bundle")
    assert status == 0
    assert bundle.digest in out
    assert bundle.modalities == ("image",)
    _, out, _ = run("features", "report", "bundle", "--json")
    shown = json.loads(out)
    assert shown["digest"] == bundle.digest
    assert shown["manifest"] == bundle.manifest
    status, out, _ = run("features", "report", "bundle")
    image = bundle.manifest["modalities"]["image"]
    for word in ("24 items", "image", image["encoder"]["licence"], "quarantined", "i3 = i1", bundle.digest):
        assert word in out
    assert "estimated" not in out


def test_films_are_read_by_as_many_frames_as_were_asked_for(run: Run, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    for name in ("a", "b", "c"):
        with av.open(str(tmp_path / "shop" / f"{name}.mov"), "w") as container:
            stream = container.add_stream("png", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
            for colour in (ord(name), 9, 99):
                frame = av.VideoFrame.from_image(Image.new("RGB", (32, 32), (colour, 0, 0)))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    rows = "".join(f"{name},{name},,{name}.mov\n" for name in "abc")
    (tmp_path / "shop" / "items.csv").write_text(f"item_id,title,text,video\n{rows}")
    encoders = {}
    for frames in ((), ("--frames", "2")):
        status, _, err = run("features", "build", "shop", "bundle", "--encoder", "text=off", *frames, "--overwrite")
        assert status == 0, err
        encoders[len(frames)] = open_bundle(tmp_path / "bundle").manifest["modalities"]["video"]["encoder"]
    assert "8-frames" in encoders[0]["name"]
    assert "2-frames" in encoders[2]["name"]


def test_a_bundle_is_replaced_only_on_demand(run: Run, small_partner: Path, tmp_path: Path) -> None:
    assert run("features", "build", str(small_partner), "bundle", *PICTURES_ALONE)[0] == 0
    before = open_bundle(tmp_path / "bundle").digest
    status, _, err = run("features", "build", str(small_partner), "bundle", *PICTURES_ALONE, "--no-quality")
    assert (status, "--overwrite" in err) == (1, True)
    assert open_bundle(tmp_path / "bundle").digest == before
    assert (
        run("features", "build", str(small_partner), "bundle", *PICTURES_ALONE, "--no-quality", "--overwrite")[0] == 0
    )
    assert "quality" not in open_bundle(tmp_path / "bundle").manifest


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (("--dims", "1"), 2),
        (("--select-dims", "64"), 2),
        (("--no-quality", "--quarantine", "0.1"), 2),
        (("--encoder", "smell=x"), 2),
        (("--encoder", "text"), 2),
        (("--encoder", "text=off", "--encoder", "text=word2vec"), 2),
        (("--select", "guess"), 2),
        (("--frames", "4"), 2),
        (("--encoder", "audio=off", "--frames", "4"), 2),  # the catalogue has no film
        (("--select", "l1"), 1),  # the catalogue has no category
        (tuple(word for name in ("text", "image", "audio", "video") for word in ("--encoder", f"{name}=off")), 1),
    ],
)
def test_wrong_options_are_usage_errors_and_impossible_ones_refusals(
    run: Run, small_partner: Path, tmp_path: Path, options: tuple[str, ...], status: int
) -> None:
    names = PICTURES_ALONE if "--encoder" not in options else ()
    assert run("features", "build", str(small_partner), "bundle", *names, *options)[0] == status
    assert not (tmp_path / "bundle" / "manifest.json").exists()


def test_a_folder_that_is_not_there_is_refused(run: Run, small_partner: Path) -> None:
    assert run("features", "build", "nowhere", "bundle")[0] == 1
    assert run("features", "report", "nowhere")[0] == 1
