"""MovieLens: 100K (`u.data`), 1M and 10M (`::`), and the CSV sets (latest, 20M, 25M, 32M), all of GroupLens.

An item's text is its genres, and its plot where a `plots` file lies beside; `posters` or `images` may hold pictures
named by movie id. Tags are users' words and are not read. 100K and 1M know their users: `age_group`, `gender`,
`occupation` and `zip_region` (first digit) can be silos; the CSV sets know nothing of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from mmrec_model.data.importers.delimited import Layout, header_of, read_delimited, text_encoding
from mmrec_model.data.importers.source import Progress, Source, item_table, sentences, with_table
from mmrec_model.data.tables import RawTable

_GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_NO_GENRES = "(no genres listed)"
_OCCUPATIONS_1M = (
    *("other", "academic or educator", "artist", "clerical or admin", "student", "customer service", "health care"),
    *("executive", "farmer", "homemaker", "K-12 student", "lawyer", "programmer", "retired", "sales", "scientist"),
    *("self-employed", "technician or engineer", "tradesman or craftsman", "unemployed", "writer"),
)
_AGES = ((18, "under 18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (50, "45-49"), (56, "50-55"), (200, "56+"))
_USER_SILOS = ("age_group", "gender", "occupation", "zip_region")


class _MovieLens(Source):
    """What all MovieLens sets share."""

    media_folders: ClassVar[Mapping[str, tuple[str, ...]]] = {"image": ("posters", "images")}
    text_files = ("plots.csv", "plots.tsv", "plots.jsonl", "plots.jsonl.gz")

    def _genre_items(self, path: Path, layout: Layout, progress: Progress) -> Iterator[RawTable]:
        """Items of a file with id, title and genres separated by `|`."""
        for part in read_delimited(path, layout, progress):
            genres = [[] if text == _NO_GENRES else text.split("|") for text in part.table["genres"].to_pylist()]
            columns = part.table.to_pydict()
            yield with_table(part, _movies(columns["item_id"], columns["title"], genres))


class MovieLensCsv(_MovieLens):
    """Latest, 20M, 25M and 32M."""

    name: ClassVar[str] = "movielens-csv"
    files: ClassVar[str] = "ratings.csv and movies.csv"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """By the names of the columns, because `ratings.csv` is a common name."""
        path = folder / "ratings.csv"
        return path.is_file() and {"userId", "movieId"} <= set(header_of(path))

    def tables(self, silos: Sequence[str]) -> list[Path]:
        """Ratings and films."""
        del silos
        return self.needed("ratings.csv", "movies.csv")

    def rows(self, progress: Progress) -> Iterator[RawTable]:
        """One row per rating."""
        columns = {"userId": "user_id", "movieId": "item_id", "rating": "rating", "timestamp": "timestamp"}
        return read_delimited(self.folder / "ratings.csv", Layout(columns), progress)

    def items(self, progress: Progress) -> Iterator[RawTable]:
        """One row per film."""
        layout = Layout({"movieId": "item_id", "title": "title", "genres": "genres"})
        return self._genre_items(self.folder / "movies.csv", layout, progress)


class MovieLens1M(_MovieLens):
    """1M, and 10M, which has no `users.dat`."""

    name: ClassVar[str] = "movielens-1m"
    files: ClassVar[str] = "ratings.dat, movies.dat and, of 1M, users.dat"
    silos = _USER_SILOS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.default_silo = "age_group" if (folder / "users.dat").is_file() else None

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """By `ratings.dat`."""
        return (folder / "ratings.dat").is_file()

    def tables(self, silos: Sequence[str]) -> list[Path]:
        """Ratings and films, and users where a silo needs them."""
        return self.needed("ratings.dat", "movies.dat", *(["users.dat"] if set(silos) & set(_USER_SILOS) else []))

    def rows(self, progress: Progress) -> Iterator[RawTable]:
        """One row per rating."""
        return read_delimited(self.folder / "ratings.dat", _wide("user_id", "item_id", "rating", "timestamp"), progress)

    def items(self, progress: Progress) -> Iterator[RawTable]:
        """One row per film; 1M is latin-1, 10M UTF-8."""
        path = self.folder / "movies.dat"
        layout = _wide("item_id", "title", "genres", encoding=text_encoding(path))
        return self._genre_items(path, layout, progress)

    def users(self, silos: Sequence[str], progress: Progress) -> Iterator[RawTable]:
        """One row per user; ages and occupations are codes."""
        layout = _wide("user_id", "gender", "age", "occupation", "zip", encoding="latin-1")
        for part in read_delimited(self.folder / "users.dat", layout, progress):
            codes = part.table["occupation"].to_pylist()
            jobs = [_OCCUPATIONS_1M[int(code)] if code.isdigit() and int(code) < 21 else "" for code in codes]
            yield with_table(part, _users(part.table, jobs, silos))


class MovieLens100K(_MovieLens):
    """100K of 1998."""

    name: ClassVar[str] = "movielens-100k"
    files: ClassVar[str] = "u.data, u.item and, for its silos, u.user"
    silos = _USER_SILOS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.default_silo = "age_group" if (folder / "u.user").is_file() else None

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """By `u.data`."""
        return (folder / "u.data").is_file()

    def tables(self, silos: Sequence[str]) -> list[Path]:
        """Ratings and films, and users where a silo needs them."""
        return self.needed("u.data", "u.item", *(["u.user"] if set(silos) & set(_USER_SILOS) else []))

    def rows(self, progress: Progress) -> Iterator[RawTable]:
        """One row per rating."""
        return read_delimited(
            self.folder / "u.data", _plain("\t", "user_id", "item_id", "rating", "timestamp"), progress
        )

    def items(self, progress: Progress) -> Iterator[RawTable]:
        """One row per film; genres are 19 flags."""
        layout = _plain("|", "item_id", "title", "released", "video", "url", *_GENRES_100K, encoding="latin-1")
        for part in read_delimited(self.folder / "u.item", layout, progress):
            columns = part.table.to_pydict()
            flags = zip(*(columns[genre] for genre in _GENRES_100K), strict=True)
            genres = [
                [genre for genre, flag in zip(_GENRES_100K, row, strict=True) if flag == "1" and genre != "unknown"]
                for row in flags
            ]
            yield with_table(part, _movies(columns["item_id"], columns["title"], genres))

    def users(self, silos: Sequence[str], progress: Progress) -> Iterator[RawTable]:
        """One row per user."""
        layout = _plain("|", "user_id", "age", "gender", "occupation", "zip", encoding="latin-1")
        for part in read_delimited(self.folder / "u.user", layout, progress):
            yield with_table(part, _users(part.table, part.table["occupation"].to_pylist(), silos))


def _plain(delimiter: str, *names: str, encoding: str = "utf-8") -> Layout:
    """A file without header and quotes whose columns keep these names."""
    return Layout({name: name for name in names}, header=names, delimiter=delimiter, quoted=False, encoding=encoding)


def _wide(*names: str, encoding: str = "utf-8") -> Layout:
    return _plain("::", *names, encoding=encoding)


def _movies(ids: Sequence[str], titles: Sequence[str], genres: Sequence[Sequence[str]]) -> pa.Table:
    """Items; the first genre is the category."""
    return item_table(
        {
            "item_id": ids,
            "title": titles,
            "text": [sentences(", ".join(names)) for names in genres],
            "category": [names[0] if names else "" for names in genres],
        }
    )


def _users(table: pa.Table, occupations: Sequence[str], silos: Sequence[str]) -> pa.Table:
    values: Mapping[str, list[str]] = {
        "age_group": [_age_group(age) for age in table["age"].to_pylist()],
        "gender": table["gender"].to_pylist(),
        "occupation": list(occupations),
        "zip_region": [f"zip {code[0]}" if code[:1].isdigit() else "" for code in table["zip"].to_pylist()],
    }
    columns = {"user_id": table["user_id"].to_pylist()} | {name: values[name] for name in silos}
    return pa.table({name: pa.array(column, pa.large_string()) for name, column in columns.items()})


def _age_group(age: str) -> str:
    return next((name for below, name in _AGES if int(age) < below), "") if age.isdigit() else ""
