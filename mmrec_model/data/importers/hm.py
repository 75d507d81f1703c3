"""H&M Personalized Fashion Recommendations (Kaggle 2022): transactions, articles, pictures.

Article ids have ten digits with a leading zero, which survives; ids that a program took for numbers get it back.
Days are the finest times, so a user's purchases of one day have no order of their own. The shop's channel of the
user's purchases is the natural silo. `customers.csv` is about persons and is read only for a silo that is asked for
by name: `age_group`, `club_member_status` or `fashion_news_frequency`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from mmrec_model.data.importers.delimited import Layout, read_delimited
from mmrec_model.data.importers.source import LABEL, Progress, Source, item_table, sentences, with_column, with_table
from mmrec_model.data.tables import RawTable

_ID_DIGITS = 10
_CHANNELS = {"1": "shop", "2": "online"}
_KIND = ("product_type_name", "product_group_name", "graphical_appearance_name", "colour_group_name")
_PLACE = ("department_name", "index_name", "section_name", "garment_group_name")
_CUSTOMER = {"age_group": "age", "club_member_status": "club_member_status"} | {
    "fashion_news_frequency": "fashion_news_frequency"
}
_AGES = ((25, "under 25"), (35, "25-34"), (45, "35-44"), (55, "45-54"), (200, "55+"))


class HAndM(Source):
    """The three tables and the pictures."""

    name: ClassVar[str] = "hm"
    files: ClassVar[str] = "transactions_train.csv and articles.csv, with the folder images"
    silos = ("channel", *_CUSTOMER)
    default_silo = "channel"
    label_silo: ClassVar[str | None] = "channel"
    media_folders: ClassVar[Mapping[str, tuple[str, ...]]] = {"image": ("images",)}

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """By `transactions_train.csv`."""
        return (folder / "transactions_train.csv").is_file()

    def tables(self, silos: Sequence[str]) -> list[Path]:
        """Transactions and articles, and customers where a silo needs them."""
        customers = ["customers.csv"] if set(silos) & set(_CUSTOMER) else []
        return self.needed("transactions_train.csv", "articles.csv", *customers)

    def rows(self, progress: Progress) -> Iterator[RawTable]:
        """One row per purchase; prices are not read."""
        names = {"customer_id": "user_id", "article_id": "item_id", "t_dat": "timestamp", "sales_channel_id": LABEL}
        for part in read_delimited(self.folder / "transactions_train.csv", Layout(names), progress):
            named = with_column(part, "item_id", _article_ids(part.table["item_id"]))
            yield with_column(named, LABEL, _renamed(part.table[LABEL].combine_chunks(), _CHANNELS))

    def items(self, progress: Progress) -> Iterator[RawTable]:
        """One row per article."""
        names = ("prod_name", *_KIND, *_PLACE, "detail_desc")
        layout = Layout({"article_id": "item_id"} | {name: name for name in names}, optional=frozenset(_PLACE))
        for part in read_delimited(self.folder / "articles.csv", layout, progress):
            columns = part.table.to_pydict()
            told = [columns[name] for name in (*_KIND, *_PLACE) if name in columns]
            texts = [
                sentences(", ".join(dict.fromkeys(word for word in words if word)), described)
                for *words, described in zip(*told, columns["detail_desc"], strict=True)
            ]
            ids = _article_ids(part.table["item_id"]).to_pylist()
            titles, groups = columns["prod_name"], columns["product_group_name"]
            yield with_table(part, item_table({"item_id": ids, "title": titles, "text": texts, "category": groups}))

    def users(self, silos: Sequence[str], progress: Progress) -> Iterator[RawTable]:
        """One row per customer."""
        layout = Layout({"customer_id": "user_id"} | {_CUSTOMER[name]: _CUSTOMER[name] for name in silos})
        for part in read_delimited(self.folder / "customers.csv", layout, progress):
            columns = part.table.to_pydict()
            table = {"user_id": columns["user_id"]}
            for name in silos:
                values = columns[_CUSTOMER[name]]
                table[name] = [_age_group(value) for value in values] if name == "age_group" else values
            texts = {name: pa.array(values, pa.large_string()) for name, values in table.items()}
            yield with_table(part, pa.table(texts))


def _article_ids(ids: pa.ChunkedArray) -> pa.Array:
    """Ten digits; texts that are missing stay so."""
    whole = ids.combine_chunks()
    return pc.if_else(pc.match_substring_regex(whole, r"^\d+$"), pc.utf8_lpad(whole, _ID_DIGITS, "0"), whole)


def _renamed(values: pa.Array, names: dict[str, str]) -> pa.Array:
    """Known codes by their names; others stay."""
    found = pc.index_in(values, value_set=pa.array(list(names), pa.large_string()))
    return pc.coalesce(pa.array(list(names.values()), pa.large_string()).take(found), values)


def _age_group(age: str) -> str:
    """Ages are whole numbers that some exports write as `24.0`."""
    whole = age.removesuffix(".0")
    return next((name for below, name in _AGES if int(whole) < below), "") if whole.isdigit() else ""
