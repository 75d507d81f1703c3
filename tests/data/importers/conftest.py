"""Small sets made by hand, with the quirks of the real files: nothing in them is real data."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmrec_model.data.importers.importing import ImportOptions, import_set
from mmrec_model.data.importers.mapping import ColumnMapping
from mmrec_model.data.importers.registry import source_of

USERS, ITEMS, PER_USER = 12, 8, 5
START = 1_500_000_000
GENRES = ("Action", "Comedy", "Drama")

Make = Callable[..., Path]


def seen(users: int) -> list[tuple[int, int, int, int]]:
    """User, item, rating 1-5, seconds: every user has five items in a row."""
    return [
        (user, (user + place) % ITEMS, 1 + (user + 2 * place) % 5, START + 1000 * user + 10 * place)
        for user in range(users)
        for place in range(PER_USER)
    ]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (10, 20, 30)).save(path)


def movielens_100k(folder: Path, users: int) -> None:
    rows = [f"{u + 1}\t{i + 1}\t{r}\t{t}" for u, i, r, t in seen(users)]
    (folder / "u.data").write_text("\n".join(rows) + "\n")
    items = []
    for item in range(ITEMS):
        flags = ["1" if place in {1 + item % 3, 5} else "0" for place in range(19)]
        title = "Misérables, Les (1995)" if item == 0 else f'Film "{item}" (1995)'
        items.append("|".join([str(item + 1), title, "01-Jan-1995", "", "http://us.imdb.com/M?x", *flags]))
    (folder / "u.item").write_bytes(("\n".join(items) + "\n").encode("latin-1"))
    people = [
        f"{u + 1}|{17 + 10 * (u % 5)}|{'MF'[u % 2]}|writer|{'T8H1N' if u == 0 else 10000 * (u % 9)}"
        for u in range(users)
    ]
    (folder / "u.user").write_text("\n".join(people) + "\n")


def movielens_1m(folder: Path, users: int) -> None:
    (folder / "ratings.dat").write_text("".join(f"{u + 1}::{i + 1}::{r}::{t}\n" for u, i, r, t in seen(users)))
    titles = ["Am\u00e9lie (2001)", "Mission: Impossible (1996)", *(f"Film {i}, The (1999)" for i in range(2, ITEMS))]
    movies = "".join(f"{i + 1}::{title}::{'|'.join(GENRES[: 1 + i % 3])}\n" for i, title in enumerate(titles))
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    (folder / "users.dat").write_text(
        "".join(f"{u + 1}::{'FM'[u % 2]}::{(1, 56)[u % 2]}::{u % 21}::48067\n" for u in range(users))
    )


def movielens_csv(folder: Path, users: int) -> None:
    lines = [f"{u + 1},{i + 1},{r - 0.5},{t}" for u, i, r, t in seen(users)]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(lines) + "\n")
    movies = ['1,"American President, The (1995)",Comedy|Drama', '2,"He said ""No"" (1996)",(no genres listed)']
    movies += [f"{i + 1},Film {i} (2000),{GENRES[i % 3]}" for i in range(2, ITEMS + 1)]
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "\n".join(movies) + "\n")
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,secret words of a user,1500000000\n")
    (folder / "links.csv").write_text("movieId,imdbId,tmdbId\n1,0114709,862\n")
    (folder / "plots.csv").write_text('movieId,plot\n1,"A president, in love"\n3,Third\n')
    picture(folder / "posters" / "1.jpg")
    picture(folder / "posters" / "3.PNG")


def amazon(folder: Path, users: int) -> None:
    reviews = [
        json.dumps(
            {
                "rating": float(r),
                "title": "a title of a user",
                "text": "private words\nof a user",
                "images": [],
                "asin": f"V{i}",
                "parent_asin": f"B00{i}",
                "user_id": f"AE{u}",
                "timestamp": t * 1000 + 500,
                "helpful_vote": 0,
                "verified_purchase": True,
            }
        )
        for u, i, r, t in seen(users)
    ]
    with gzip.open(folder / "All_Beauty.jsonl.gz", "wt") as stream:
        stream.write("\n".join(reviews) + "\n")
    _amazon_meta(folder)


def _amazon_meta(folder: Path) -> None:
    records = [
        {
            "main_category": "All Beauty" if i % 2 else None,
            "title": f"Cream {i}" if i else None,
            "average_rating": 4.9,
            "rating_number": 12345,
            "features": ["soft", "No smell."] if i % 2 else [],
            "description": [f"Cream for\n hands {i}"],
            "price": (None, "12.99", 7.5, "from 3.00")[i % 4],
            "images": [{"thumb": "http://x/y.jpg", "hi_res": None}],
            "videos": [],
            "store": None,
            "categories": ["Beauty", ("Skin", "Hair")[i % 2]] if i % 3 else [],
            "details": {"Brand": "none", "Age": i} if i % 2 else "{}",
            "parent_asin": f"B00{i}",
            "bought_together": None,
        }
        for i in range(ITEMS)
    ]
    (folder / "meta_All_Beauty.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    picture(folder / "images" / "B002.jpg")


def amazon_core(folder: Path, users: int) -> None:
    lines = [f"AE{u},B00{i},{r}.0,{t * 1000}" for u, i, r, t in seen(users)]
    (folder / "All_Beauty.csv").write_text("user_id,parent_asin,rating,timestamp\n" + "\n".join(lines) + "\n")
    _amazon_meta(folder)


def microlens(folder: Path, users: int) -> None:
    lines = [f"{u + 1},{i + 1},{t * 1000 + 7}" for u, i, _, t in seen(users)]
    (folder / "MicroLens-50k_pairs.csv").write_text("user,item,timestamp\n" + "\n".join(lines) + "\n")
    titles = ["1,Cats, dogs, and 鸟", '2,"Quoted, title"', *(f"{i + 1},Video {i}" for i in range(2, ITEMS))]
    (folder / "MicroLens-50k_titles.csv").write_text("\n".join(titles) + "\n")
    (folder / "MicroLens-50k_likes_and_views.txt").write_text("1\t10\t200\n")
    picture(folder / "MicroLens-50k_covers" / "1.jpg")
    for name in ("MicroLens-50k_audios/1.wav", "MicroLens-50k_videos/2.mp4"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"not really a medium")


def hm(folder: Path, users: int) -> None:
    lines = [
        f"2019-0{1 + p % 9}-{10 + u % 9},{u:064x},0{108775015 + i},0.0{i}5,{1 + u % 2}"
        for u, i, p in ((u, i, n % PER_USER) for n, (u, i, _, _) in enumerate(seen(users)))
    ]
    lines.append(lines[0])  # two of one thing in one purchase are two equal rows
    header = "t_dat,customer_id,article_id,price,sales_channel_id"
    (folder / "transactions_train.csv").write_text("\n".join([header, *lines]) + "\n")
    names = (
        "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,"
        "graphical_appearance_name,colour_group_name,department_name,index_name,section_name,garment_group_name,detail_desc"
    )
    articles = [
        f"0{108775015 + i},0108775,Strap top {i},253,Vest top,Garment Upper body,Solid,Black,"
        "Jersey,Ladieswear,Womens,Jersey Basic," + ('"Jersey top, with straps."' if i else "")
        for i in range(ITEMS)
    ]
    (folder / "articles.csv").write_text("\n".join([names, *articles]) + "\n")
    people = [f"{u:064x},1.0,,ACTIVE,NONE,{'' if u == 0 else 20 + 5 * (u % 9)},hash" for u in range(users)]
    header = "customer_id,FN,Active,club_member_status,fashion_news_frequency,age,postal_code"
    (folder / "customers.csv").write_text("\n".join([header, *people]) + "\n")
    picture(folder / "images" / "010" / "0108775015.jpg")


def mind(folder: Path, users: int) -> None:
    part = folder / "MINDsmall_train"
    part.mkdir()
    lines = []
    for number, user in enumerate([*range(users), *range(users)]):
        later = number >= users
        history = " ".join(f"N{(user + k) % ITEMS}" for k in range(3)) if user else ""
        shown = f"N{(user + 3 + later) % ITEMS}-1 N{(user + 5 + later) % ITEMS}-0"
        lines.append(
            f"{number + 1}\tU{user}\t11/{14 + later}/2019 {1 + user % 12}:55:22 {'AP'[later]}M\t{history}\t{shown}"
        )
    (part / "behaviors.tsv").write_text("\n".join(lines) + "\n")
    news = [
        f'N{i}\t{("sports", "news")[i % 2]}\tsub\tThe "{i}" title\tAn abstract {i}\thttps://x\t[]\t[]'
        for i in range(ITEMS)
    ]
    (part / "news.tsv").write_text("\n".join(news) + "\n")


SETS: dict[str, Callable[[Path, int], None]] = {
    "movielens-100k": movielens_100k,
    "movielens-1m": movielens_1m,
    "movielens-csv": movielens_csv,
    "amazon-2023": amazon,
    "amazon-2023-5core": amazon_core,
    "microlens": microlens,
    "hm": hm,
    "mind": mind,
}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write the set of this name; returns its folder."""

    def _make(name: str, users: int = USERS) -> Path:
        folder = tmp_path / "sets" / name
        folder.mkdir(parents=True)
        SETS[name](folder, users)
        return folder

    return _make


Import = Callable[..., Path]


@pytest.fixture
def bring(make: Make, tmp_path: Path) -> Import:
    """Import a set (its name, or its folder) and return the partner folder."""

    def _bring(what: str | Path, out: str = "out", mapping: ColumnMapping | None = None, **options: object) -> Path:
        folder = make(what) if isinstance(what, str) else what
        source = source_of(folder, "auto", mapping)
        import_set(source, tmp_path / out, ImportOptions(**options), lambda *_: None)
        return tmp_path / out

    return _bring


@pytest.fixture
def column() -> Callable[[Path, str, str], list[object]]:
    """A column of a table of a partner folder."""

    def _column(folder: Path, table: str, name: str) -> list[object]:
        return pq.read_table(folder / f"{table}.parquet").column(name).to_pylist()

    return _column


@pytest.fixture
def item() -> Callable[[Path, str], dict[str, str]]:
    """The row of an item."""

    def _item(folder: Path, item_id: str) -> dict[str, str]:
        (row,) = (row for row in pq.read_table(folder / "items.parquet").to_pylist() if row["item_id"] == item_id)
        return row

    return _item
