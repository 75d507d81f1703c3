"""Items, media and users: only files inside the folder, each item once."""

from __future__ import annotations

import os
from io import BytesIO

import pytest
from PIL import Image

from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.data.dataset import open_partner, read_user_columns
from mmrec_model.data.media import check_pictures
from mmrec_model.data.schema import Limits
from mmrec_model.errors import DataError

MEDIA_HEADER = "item_id,title,text,image,audio,video\n"


def picture(kind: str = "PNG", side: int = 40) -> bytes:
    buffer = BytesIO()
    Image.effect_noise((side, side), 60).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def test_missing_cells_are_empty_text_and_items_keep_file_order(write) -> None:
    catalogue = open_catalogue(write(interactions_csv=None))
    assert catalogue.item_ids == ("a", "b", "c", "d")
    assert catalogue.titles == ("Apple", "Book", "", "Dish")
    assert catalogue.texts == ("A fruit", "", "", "Round")
    assert catalogue.categories == ("", "", "", "")
    assert catalogue.media == dict.fromkeys(("image", "audio", "video"), (None,) * 4)
    assert catalogue.index == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert len(catalogue) == 4
    assert any("1 of 4 items have neither" in notice for notice in catalogue.report.notices)


def test_an_item_id_twice_is_refused_with_the_id_and_both_rows(write) -> None:
    folder = write(items_csv="item_id,title,text\na,x,\nb,x,\n,x,\nb,y,\n")
    with pytest.raises(DataError, match="'b' in row 2 and in row 4"):
        open_catalogue(folder)


def test_an_item_without_an_id_is_quarantined(write) -> None:
    catalogue = open_catalogue(write(items_csv="item_id,title,text,image\na,x,,\n,x,,/etc/passwd\nb,y,,\n"))
    assert catalogue.item_ids == ("a", "b")
    assert catalogue.report.quarantined == {"items/missing_item_id": 1}


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("../../etc/passwd", "image_outside_folder"),
        ("/etc/passwd", "image_outside_folder"),
        ("pictures/../../items.csv", "image_outside_folder"),
        ("C:\\secret.png", "image_outside_folder"),
        ("\\\\server\\share.png", "image_outside_folder"),
        ("escape/passwd", "image_outside_folder"),
        ("escape.png", "image_outside_folder"),
        ("a\0b.png", "image_outside_folder"),
        ("absent.png", "image_missing"),
        ("pictures", "image_missing"),
        ("circle.png", "image_missing"),
        ("https://example.org/a.png", "image_missing"),
        ("x" * 5000, "image_missing"),
    ],
)
def test_a_path_that_leaves_the_folder_or_names_no_file_drops_the_cell_and_keeps_the_item(write, cell, code) -> None:
    folder = write(items_csv=MEDIA_HEADER + f"a,t,,{cell},,\n")
    (folder / "pictures").mkdir()
    (folder / "escape").symlink_to("/etc")
    (folder / "escape.png").symlink_to("/etc/passwd")
    (folder / "circle.png").symlink_to("circle.png")
    catalogue = open_catalogue(folder)
    assert catalogue.item_ids == ("a",)
    assert catalogue.media["image"] == (None,)
    assert catalogue.report.quarantined == {f"items/{code}": 1}
    assert catalogue.report.examples[0].row == 1


def test_a_file_inside_the_folder_is_found_under_its_resolved_path_also_through_links_that_stay_inside(write) -> None:
    folder = write(items_csv=MEDIA_HEADER + "a,t,,pics/../pics/a.png,s.wav,link.mp4\n")
    (folder / "pics").mkdir()
    for name in ("pics/a.png", "s.wav", "v.mp4"):
        (folder / name).write_bytes(b"x")
    (folder / "link.mp4").symlink_to("v.mp4")
    catalogue = open_catalogue(folder)
    root = folder.resolve()
    assert catalogue.media == {"image": (root / "pics/a.png",), "audio": (root / "s.wav",), "video": (root / "v.mp4",)}


def test_a_folder_that_is_itself_reached_through_a_link_keeps_its_media(write, tmp_path) -> None:
    folder = write(items_csv=MEDIA_HEADER + "a,t,,a.png,,\n")
    (folder / "a.png").write_bytes(b"x")
    (tmp_path / "alias").symlink_to(folder)
    assert open_catalogue(tmp_path / "alias").media["image"] == ((folder / "a.png").resolve(),)


def test_unreadable_pictures_are_dropped_and_counted_and_readable_ones_stay(write) -> None:
    contents = {
        "good.png": picture(),
        "good.jpg": picture("JPEG"),
        "text.png": b"no picture",
        "cut.png": picture()[:200],
        "cut.jpg": picture("JPEG", side=200)[:3000],
        "empty.jpg": b"",
        "large.png": picture(side=201),
    }
    rows = "".join(f"{number},t,,{name},,\n" for number, name in enumerate(contents))
    folder = write(items_csv=MEDIA_HEADER + rows)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    opened = open_catalogue(folder)
    catalogue = check_pictures(opened, limits=Limits(picture_pixels=200 * 200))
    kept = [path.name for path in catalogue.media["image"] if path]
    assert kept == ["good.png", "good.jpg"]
    assert catalogue.report.quarantined == {"items/image_unreadable": 5}
    assert "image_unreadable" in catalogue.report.to_text()
    assert check_pictures(catalogue) is catalogue


def test_user_columns_are_those_of_the_format_and_of_two_rows_the_first_counts(write) -> None:
    content = "user_id,silo_city,text,image,age\nu1,Rome,hi,me.png,3\nu2,,,../x,4\nu1,Paris,,,5\n"
    folder = write(users_csv=content)
    (folder / "me.png").write_bytes(b"x")
    assert read_user_columns(folder) == {
        "u1": {"silo_city": "Rome", "text": "hi", "image": str((folder / "me.png").resolve())},
        "u2": {"silo_city": "", "text": "", "image": ""},
    }
    quarantined = open_partner(folder).report.quarantined
    assert quarantined == {"users/duplicate_user_id": 1, "users/image_outside_folder": 1}


def test_users_without_an_interaction_take_no_part_and_are_told(write) -> None:
    data = open_partner(write(users_csv="user_id\nu1\nu8\nu9\n"))
    assert data.user_ids == ("u1", "u2")
    assert any("2 users have no usable interaction" in notice for notice in data.report.notices)


def test_a_folder_without_a_users_file_has_no_user_columns(write) -> None:
    assert read_user_columns(write()) == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads every file")
def test_a_file_without_permission_is_refused(write) -> None:
    folder = write()
    (folder / "items.csv").chmod(0)
    with pytest.raises(DataError, match=r"items\.csv cannot be read"):
        open_catalogue(folder)
