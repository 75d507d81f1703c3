"""A partner folder is whole or absent, is never replaced by mistake, and media stay inside it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.data.importers import importing, media_files
from mmrec_model.data.importers.folder import check_target, made_whole
from mmrec_model.data.importers.selection import Selection
from mmrec_model.errors import DataError, UsageError


def test_an_import_that_fails_leaves_nothing(make, bring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise DataError("the folder is not whole", remedy="Nothing")

    folder = make("hm")
    monkeypatch.setattr(importing, "open_partner", fail)
    with pytest.raises(DataError, match="not whole"):
        bring(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]


def test_a_failed_replacement_leaves_the_old_folder(
    make, bring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("hm")
    before = {path: path.read_bytes() for path in bring(folder).rglob("*.parquet")}
    monkeypatch.setattr(importing, "write_interactions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bring(folder, overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sets"]


def test_an_existing_folder_is_refused_and_replaced_when_asked_for(make, bring) -> None:
    folder = make("hm")
    first = (bring(folder) / "import.json").read_bytes()
    with pytest.raises(DataError, match="exists already") as error:
        bring(folder)
    assert "--overwrite" in error.value.remedy
    again = bring(folder, selection=Selection(k_core=2), overwrite=True)
    assert (again / "import.json").read_bytes() != first
    assert open_catalogue(again).media["image"][0] is not None


@pytest.mark.parametrize("content", ["notes.txt", "users.parquet"])
def test_what_no_import_made_is_never_replaced(tmp_path: Path, content: str) -> None:
    out = tmp_path / "precious"
    out.mkdir()
    (out / content).write_text("mine")
    with pytest.raises(DataError, match="no import made it"):
        check_target(out, tmp_path / "set", overwrite=True)


def test_a_foreign_file_beside_an_import_protects_the_folder(make, bring) -> None:
    folder = make("hm")
    (bring(folder) / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        bring(folder, overwrite=True)


@pytest.mark.parametrize("inside", ["", "set"])
def test_the_set_is_never_overwritten(tmp_path: Path, inside: str) -> None:
    with pytest.raises(UsageError, match="lies in"):
        check_target(tmp_path, tmp_path / inside, overwrite=True)


def test_an_interrupt_removes_what_was_begun(tmp_path: Path) -> None:
    def begin() -> None:
        with made_whole(tmp_path / "out") as folder:
            (folder / "items.parquet").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_data_error_and_leaves_nothing(bring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(importing, "write_interactions", refuse)
    with pytest.raises(DataError, match="No space left"):
        bring("hm")
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]


def test_media_are_links_or_copies_or_left_out(make, bring) -> None:
    folder = make("hm")
    picture = folder / "images" / "010" / "0108775015.jpg"
    out = {mode: bring(folder, mode, media=mode) / "image" / "010" / picture.name for mode in ("link", "copy", "none")}
    assert out["link"].samefile(picture)
    assert not out["copy"].samefile(picture)
    assert out["copy"].read_bytes() == picture.read_bytes()
    assert not out["none"].exists()
    assert json.loads((out["link"].parents[2] / "import.json").read_bytes())["media"]["image"]["files"] == 1


def test_a_link_that_leads_out_of_the_media_folder_is_not_followed(make, bring, tmp_path: Path) -> None:
    folder = make("hm")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "images" / "010" / "0108775016.jpg").symlink_to(tmp_path / "secret.jpg")
    out = bring(folder)
    assert json.loads((out / "import.json").read_bytes())["media"]["image"] == {"bytes": 632, "files": 1, "missing": 1}
    assert not (out / "image" / "010" / "0108775016.jpg").exists()


def test_another_file_system_is_an_error_that_says_to_copy(make, bring, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(DataError, match="cannot be linked") as error:
        bring("hm")
    assert "--media copy" in error.value.remedy


def test_a_folder_of_media_can_lie_elsewhere(make, bring, item, tmp_path: Path) -> None:
    posters = tmp_path / "posters"
    posters.mkdir()
    (posters / "2.jpg").write_bytes(b"x")
    out = bring("movielens-100k", folders={"image": posters})
    assert item(out, "2")["image"] == "image/2.jpg"


def test_of_two_files_of_an_item_the_first_path_counts(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/1.jpg", "1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert media_files.index_media("image", tmp_path).paths == {"1": "a/1.jpg"}


def test_another_draw_of_users_than_before_is_refused_without_a_seed(make, bring) -> None:
    folder = make("hm")
    drawn = Selection(max_users=5, seed=7)
    before = (bring(folder, selection=drawn, seed_given=True) / "users.parquet").read_bytes()
    with pytest.raises(UsageError, match="--seed 7"):
        bring(folder, selection=Selection(max_users=5), overwrite=True)
    assert (bring(folder, selection=drawn, seed_given=True, overwrite=True) / "users.parquet").read_bytes() == before


def test_no_row_left_is_refused_with_the_reasons(make, bring) -> None:
    with pytest.raises(DataError, match="outside_k_core"):
        bring("hm", selection=Selection(k_core=100))


def test_malformed_items_are_counted_and_refused_above_the_share(make, bring) -> None:
    folder = make("amazon-2023")
    meta = folder / "meta_All_Beauty.jsonl"
    meta.write_text("{broken\n" + meta.read_text())
    with pytest.raises(DataError, match=r"meta_All_Beauty\.jsonl: 1 of 9 records .* first in row 1"):
        bring(folder)
    record = json.loads((bring(folder, malformed_share=0.2) / "import.json").read_bytes())
    assert record["malformed"] == {"meta_All_Beauty.jsonl": {"malformed": 1, "read": 9}}


def test_the_record_holds_no_id_of_a_user_and_no_path_of_the_machine(make, bring, tmp_path: Path) -> None:
    text = (bring("amazon-2023", selection=Selection(min_rating=2.0)) / "import.json").read_text()
    assert "AE0" not in text
    assert str(tmp_path) not in text
    assert json.loads(text)["options"]["min_rating"] == 2.0
