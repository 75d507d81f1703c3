"""Every format with the quirks of its real files becomes a folder that opens without a single quarantined row."""

from __future__ import annotations

import gzip
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.data.dataset import open_partner
from mmrec_model.data.importers.registry import NAMES, SETS, source_of
from mmrec_model.data.importers.silos import commonest
from mmrec_model.errors import DataError, UsageError

ALL = [kind.name for kind in SETS]


@pytest.mark.parametrize("name", ALL)
def test_a_set_is_recognised_and_opens_without_quarantine(name: str, make, bring) -> None:
    folder = make(name)
    assert source_of(folder, "auto", None).name == name
    partner = open_partner(bring(folder))
    assert partner.report.quarantined == {}
    assert len(partner) == 12
    assert len(partner.catalogue) == 8
    assert (partner.test >= 0).sum() >= 11


@pytest.mark.parametrize("name", ALL)
def test_rows_in_are_rows_kept_and_rows_lost(name: str, bring) -> None:
    record = json.loads((bring(name) / "import.json").read_bytes())
    rows = record["rows"]
    assert rows["read"] == rows["kept"] + sum(rows["lost"].values())
    assert rows["kept"] >= 60
    assert record["format"] == name
    assert all(len(entry["sha256"]) == 64 and entry["bytes"] > 0 for entry in record["source"])


@pytest.mark.parametrize("name", ALL)
def test_equal_files_give_equal_bytes(name: str, make, bring) -> None:
    folder = make(name)
    first, second = bring(folder, "one"), bring(folder, "two")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert [path for path in files if (first / path).read_bytes() != (second / path).read_bytes()] == []


@pytest.mark.parametrize("name", ALL)
def test_a_missing_file_is_named_with_what_the_format_needs(name: str, make, bring) -> None:
    folder = make(name)
    source = source_of(folder, "auto", None)
    tables = source.tables(())
    needed = tables[-1] if name.startswith(("movielens", "hm", "mind")) else tables[0]
    needed.unlink()
    with pytest.raises(DataError) as error:
        type(source)(folder).tables(())
    assert needed.name in str(error.value) or source.files.split(",")[0].split()[0] in str(error.value)
    assert source.files in error.value.remedy


def test_a_folder_of_nothing_known_names_every_format(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        source_of(tmp_path, "auto", None)
    assert [name for name in ALL if name not in str(error.value)] == []


def test_a_folder_of_two_formats_asks_which(make) -> None:
    folder = make("movielens-100k")
    shutil.copy(folder / "u.data", folder / "ratings.dat")
    with pytest.raises(DataError, match="movielens-100k and of movielens-1m"):
        source_of(folder, "auto", None)
    assert source_of(folder, "movielens-100k", None).name == "movielens-100k"


def test_an_unknown_format_is_a_usage_error_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="netflix") as error:
        source_of(tmp_path, "netflix", None)
    assert all(name in error.value.remedy for name in NAMES)


def test_movielens_100k_reads_latin_1_flags_and_quotes(bring, item, column) -> None:
    folder = bring("movielens-100k", silos=("age_group", "gender", "occupation", "zip_region"))
    assert item(folder, "1")["title"] == "Misérables, Les (1995)"
    assert item(folder, "2")["title"] == 'Film "1" (1995)'
    assert item(folder, "2")["text"] == "Adventure, Comedy."
    assert item(folder, "2")["category"] == "Adventure"
    assert column(folder, "interactions", "rating")[:2] == [1.0, 3.0]
    assert column(folder, "users", "silo_age_group")[:3] == ["under 18", "25-34", "35-44"]
    assert column(folder, "users", "silo_zip_region")[:2] == ["", "zip 1"]
    assert column(folder, "users", "silo_gender")[:2] == ["M", "F"]


def test_movielens_1m_keeps_colons_of_titles_and_knows_its_codes(bring, item, column) -> None:
    folder = bring("movielens-1m", silos=("age_group", "occupation"))
    assert item(folder, "1")["title"] == "Amélie (2001)"
    assert item(folder, "2")["title"] == "Mission: Impossible (1996)"
    assert item(folder, "3")["text"] == "Action, Comedy, Drama."
    assert column(folder, "users", "silo_age_group")[:2] == ["under 18", "56+"]
    assert column(folder, "users", "silo_occupation")[:2] == ["other", "academic or educator"]


def test_movielens_10m_is_utf_8_and_has_no_users(make, bring, item) -> None:
    folder = make("movielens-1m")
    (folder / "users.dat").unlink()
    (folder / "movies.dat").write_text("1::Amélie (2001)::Drama\n")
    out = bring(folder)
    assert item(out, "1")["title"] == "Amélie (2001)"
    assert not (out / "users.parquet").exists()


def test_movielens_csv_reads_quotes_plots_and_posters_and_no_tag(bring, item, column) -> None:
    folder = bring("movielens-csv")
    first = item(folder, "1")
    assert first["title"] == "American President, The (1995)"
    assert first["text"] == "Comedy, Drama. A president, in love."
    assert first["image"] == "image/1.jpg"
    assert item(folder, "2") | {"title": 'He said "No" (1996)', "text": "", "category": ""} == item(folder, "2")
    assert item(folder, "3")["image"] == "image/3.PNG"
    assert column(folder, "interactions", "rating")[0] == 0.5
    written = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    assert b"secret" not in written


@pytest.mark.parametrize("suffix", ["tsv", "jsonl"])
def test_plots_come_in_three_forms(make, bring, item, suffix: str) -> None:
    folder = make("movielens-csv")
    (folder / "plots.csv").unlink()
    lines = {
        "tsv": 'movieId\ttext\n1\tA "plot", told\n',
        "jsonl": json.dumps({"movieId": 1, "overview": 'A "plot", told'}) + "\n",
    }
    (folder / f"plots.{suffix}").write_text(lines[suffix])
    assert item(bring(folder), "1")["text"] == 'Comedy, Drama. A "plot", told.'


def test_amazon_reads_gzip_milliseconds_and_no_word_of_a_user(bring, item, column) -> None:
    folder = bring("amazon-2023")
    assert column(folder, "interactions", "timestamp")[0] == 1_500_000_000.5
    first = item(folder, "B001")
    assert first["text"] == "soft. No smell. Cream for hands 1."
    assert first["category"] == "Hair"
    assert item(folder, "B000")["title"] == ""
    assert item(folder, "B003")["category"] == "All Beauty"
    assert item(folder, "B002")["image"] == "image/B002.jpg"
    texts = str(pq.read_table(folder / "items.parquet").to_pydict())
    assert "private" not in texts
    assert "12345" not in texts


def test_amazon_5_core_rows_are_those_of_the_reviews(bring, make, column) -> None:
    core, reviews = bring("amazon-2023-5core", "core"), bring("amazon-2023", "reviews")
    for name in ("user_id", "item_id", "rating"):
        assert column(core, "interactions", name) == column(reviews, "interactions", name)
    assert column(core, "interactions", "timestamp")[0] == 1_500_000_000


def test_amazon_domains_are_read_together(make, bring) -> None:
    folder = make("amazon-2023")
    line = {"rating": 5.0, "parent_asin": "X1", "user_id": "AE0", "timestamp": 1_600_000_000_000}
    with gzip.open(folder / "Books.jsonl.gz", "wt") as stream:
        stream.write(json.dumps(line) + "\n")
    assert len(open_partner(bring(folder)).catalogue) == 9


def test_microlens_titles_keep_unquoted_commas_with_and_without_a_header(make, bring, item) -> None:
    folder = make("microlens")
    out = bring(folder, "bare")
    assert item(out, "1")["title"] == "Cats, dogs, and 鸟"
    assert item(out, "2")["title"] == "Quoted, title"
    assert (item(out, "1")["image"], item(out, "1")["audio"]) == ("image/1.jpg", "audio/1.wav")
    assert item(out, "2")["video"] == "video/2.mp4"
    titles = folder / "MicroLens-50k_titles.csv"
    titles.write_text("item,title\n" + titles.read_text())
    headed = bring(folder, "headed")
    assert (headed / "items.parquet").read_bytes() == (out / "items.parquet").read_bytes()


def test_microlens_pairs_without_a_header_lose_no_row(make, bring, column) -> None:
    folder = make("microlens")
    pairs = folder / "MicroLens-50k_pairs.csv"
    pairs.write_text(pairs.read_text().partition("\n")[2])
    seconds = column(bring(folder), "interactions", "timestamp")
    assert len(seconds) == 60
    assert seconds[0] == 1_500_000_000.007


def test_hm_keeps_leading_zeros_and_counts_equal_purchases(make, bring, item, column) -> None:
    folder = make("hm")
    out = bring(folder)
    assert item(out, "0108775015")["image"] == "image/010/0108775015.jpg"
    assert set(column(out, "interactions", "item_id")) == {f"0{108775015 + i}" for i in range(8)}
    assert json.loads((out / "import.json").read_bytes())["rows"]["lost"] == {"repeated": 1}
    first = datetime.fromtimestamp(column(out, "interactions", "timestamp")[0], UTC)
    assert (first.year, first.month, first.day) == (2019, 1, 10)
    assert column(out, "users", "silo_channel")[:2] == ["shop", "online"]


def test_hm_gives_back_a_zero_that_a_program_took(make, bring, column) -> None:
    folder = make("hm")
    path = folder / "transactions_train.csv"
    path.write_text(path.read_text().replace(",0108", ",108"))
    assert set(column(bring(folder), "interactions", "item_id")) == {f"0{108775015 + i}" for i in range(8)}


def test_hm_reads_customers_only_when_they_are_asked_for(make, bring, column) -> None:
    folder = make("hm")
    (folder / "customers.csv").rename(folder / "away.csv")
    bring(folder, "without")
    with pytest.raises(DataError, match=r"customers\.csv"):
        bring(folder, "with", silos=("age_group",))
    (folder / "away.csv").rename(folder / "customers.csv")
    assert column(bring(folder, "with", silos=("age_group",)), "users", "silo_age_group")[:3] == ["", "25-34", "25-34"]


def test_mind_makes_clicks_impressions_and_earlier_history(bring, column) -> None:
    folder = bring("mind")
    partner = open_partner(folder)
    users, events = column(folder, "interactions", "user_id"), column(folder, "interactions", "event")
    seconds = column(folder, "interactions", "timestamp")
    assert (events.count("click"), events.count("impression"), events.count(None)) == (24, 24, 33)
    one = [(seconds[row], events[row]) for row in range(len(users)) if users[row] == "U1"]
    assert sorted(event or "" for _, event in one) == ["", "", "", "click", "click", "impression", "impression"]
    first = min(time for time, event in zip(seconds, events, strict=True) if event)
    history = [time for time, event in one if event is None]
    assert history == [first - 3, first - 2, first - 1]
    assert datetime.fromtimestamp(first, UTC) == datetime(2019, 11, 14, 0, 55, 22, tzinfo=UTC)  # 12:55:22 AM
    assert not np.any(partner.feedback.clicked & ~partner.feedback.shown)
    assert partner.feedback.shown.any()


def test_mind_entries_without_a_label_are_counted_and_refused_above_the_share(make, bring) -> None:
    folder = make("mind")
    path = folder / "MINDsmall_train" / "behaviors.tsv"
    path.write_text(path.read_text().replace("-0\n", "\n"))
    with pytest.raises(DataError, match="unknown_event, first in row 1, 2, 3"):
        bring(folder)
    record = json.loads((bring(folder, malformed_share=0.5) / "import.json").read_bytes())
    assert record["rows"]["lost"] == {"behaviors/unknown_event": 24}


def test_an_item_that_no_file_describes_stays_without_text(make, bring, item) -> None:
    folder = make("movielens-csv")
    text = (folder / "movies.csv").read_text().splitlines()
    (folder / "movies.csv").write_text("\n".join(text[:-2]) + "\n")
    out = bring(folder)
    assert item(out, "8")["title"] == ""
    assert json.loads((out / "import.json").read_bytes())["items"]["undescribed"] == 1


def test_items_that_nobody_met_are_kept_when_asked_for(make, bring) -> None:
    folder = make("movielens-csv")
    assert len(open_partner(bring(folder, "met")).catalogue) == 8
    assert len(open_partner(bring(folder, "all", items="all")).catalogue) == 9


def test_of_two_records_of_an_item_the_first_counts(make, bring, item) -> None:
    folder = make("amazon-2023")
    with (folder / "meta_All_Beauty.jsonl").open("a") as stream:
        stream.write(json.dumps({"parent_asin": "B001", "title": "Another"}) + "\n")
    out = bring(folder)
    assert item(out, "B001")["title"] == "Cream 1"
    assert json.loads((out / "import.json").read_bytes())["items"]["repeated"] == 1


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40))
def test_the_commonest_label_is_the_smallest_of_those_that_are_most(pairs: list[tuple[int, int]]) -> None:
    owners, labels = (np.array([pair[place] for pair in pairs], dtype=np.int64) for place in (0, 1))
    found = commonest(owners, labels, 5)
    for owner in range(5):
        own = [label for who, label in pairs if who == owner]
        assert found[owner] == min(own, key=lambda label: (-own.count(label), label), default=-1)


def test_the_commonest_category_can_be_the_silo(bring, column) -> None:
    folder = bring("mind", silos=("category",))
    assert set(column(folder, "users", "silo_category")) <= {"sports", "news"}


def test_a_silo_that_the_set_has_not_is_refused_with_those_it_has(make, bring) -> None:
    with pytest.raises(UsageError, match="country") as error:
        bring("hm", silos=("country",))
    assert "channel, age_group" in error.value.remedy


def test_no_silo_writes_no_users(bring) -> None:
    assert not (bring("movielens-100k", silos=("none",)) / "users.parquet").exists()
