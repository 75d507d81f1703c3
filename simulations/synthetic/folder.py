"""The synthetic set on disk: a partner folder like any other, with `known_answer.json` beside the tables.

The tables are written last, so a folder that has them is complete; the same arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmrec_model.config import MODALITIES
from mmrec_model.errors import DataError, UsageError
from mmrec_model.storage import write_atomically
from simulations.synthetic.answer import FILE_NAME, KnownAnswer, answer_of
from simulations.synthetic.attributes import ATTRIBUTES, REGIONS
from simulations.synthetic.films import film_item
from simulations.synthetic.outcomes import Outcomes, draw_outcomes
from simulations.synthetic.pictures import draw_picture
from simulations.synthetic.sounds import play_item
from simulations.synthetic.taste import World, draw_world
from simulations.synthetic.writing import write_item

FEWEST_USERS, FEWEST_ITEMS = 1, 20
TABLES = ("items.parquet", "users.parquet", "interactions.parquet")

Draw = Callable[[Mapping[str, str], np.random.Generator], bytes]
MEDIA: dict[str, tuple[str, Draw]] = {
    "image": ("png", draw_picture),
    "audio": ("flac", play_item),
    "video": ("mp4", film_item),
}
"""Per medium, the suffix of its files and who makes them."""


def write_synthetic(
    folder: Path,
    *,
    users: int = 2400,
    items: int = 400,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> KnownAnswer:
    """Write the set with these arguments into `folder` and return what is true of it.

    Args:
        folder: created if absent; a synthetic set in it is replaced.
        users: at least 1.
        items: at least 20.
        seed: at least 0.
        progress: called with (items done, items) after each item.

    Raises:
        UsageError: a number is too small.
        DataError: the folder holds tables that are not a synthetic set.
    """
    for name, value, least in (("users", users, FEWEST_USERS), ("items", items, FEWEST_ITEMS), ("seed", seed, 0)):
        if value < least:
            raise UsageError(f"{name} is {value}, the least is {least}", remedy=f"Ask for at least {least} {name}")
    if any((folder / table).exists() for table in TABLES) and not (folder / FILE_NAME).exists():
        raise DataError(f"{folder} holds tables that are not a synthetic set", remedy="Name an empty folder")
    world = draw_world(users, items, seed)
    rows = []
    for item in range(items):
        rows.append(_write_item(folder, world, item, seed))
        if progress is not None:
            progress(item + 1, items)
    outcomes = draw_outcomes(world, seed)
    answer = answer_of(world, outcomes, seed)
    answer.save(folder)
    for table, content in zip(TABLES, (_items(rows), _users(world), _interactions(world, outcomes)), strict=True):
        _write_table(folder / table, content)
    return answer


def item_id(item: int) -> str:
    """Name of the item with this index."""
    return f"i{item:05d}"


def user_id(user: int) -> str:
    """Name of the user with this index."""
    return f"u{user:06d}"


def _write_item(folder: Path, world: World, item: int, seed: int) -> dict[str, str | None]:
    """Write an item's files and return its row."""
    values = {
        attribute.name: attribute.values[world.values_IA[item, column]] for column, attribute in enumerate(ATTRIBUTES)
    }
    generators = {medium: np.random.default_rng([seed, 1 + column, item]) for column, medium in enumerate(MODALITIES)}
    title, text = write_item(values, generators["text"])
    row: dict[str, str | None] = {"item_id": item_id(item), "title": title, "text": text, "category": values["topic"]}
    for column, medium in enumerate(MODALITIES):
        if medium == "text":
            continue
        suffix, draw = MEDIA[medium]
        name = f"media/{medium}/{item_id(item)}.{suffix}"
        row[medium] = name if world.present_IM[item, column] else None
        if row[medium] is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw(values, generators[medium]))
    return row


def _items(rows: list[dict[str, str | None]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in rows[0]]))


def _users(world: World) -> pa.Table:
    return pa.table(
        {
            "user_id": [user_id(user) for user in range(len(world.region_U))],
            "silo_region": [REGIONS[region] for region in world.region_U],
        }
    )


def _interactions(world: World, outcomes: Outcomes) -> pa.Table:
    """All events by user, then time; clicks are the histories."""
    lengths = [len(history) for history in world.histories]
    clicking, clicked = np.repeat(np.arange(len(lengths)), lengths), np.concatenate(world.histories)
    bought = outcomes.converted
    parts = [
        ("click", clicking, clicked, np.concatenate(world.times)),
        ("impression", outcomes.shown_users, outcomes.shown_items, outcomes.shown_times),
        ("conversion", clicking[bought], clicked[bought], outcomes.conversion_times[bought]),
        ("rating", clicking[bought], clicked[bought], outcomes.rating_times[bought]),
    ]
    events = np.repeat([name for name, *_ in parts], [len(users) for _, users, *_ in parts])
    users, items, times = (np.concatenate([part[column] for part in parts]) for column in (1, 2, 3))
    ratings = np.full(len(users), np.nan)
    ratings[events == "rating"] = outcomes.ratings[bought]
    order = np.lexsort((times, users))
    return pa.table(
        {
            "user_id": [user_id(user) for user in users[order]],
            "item_id": [item_id(item) for item in items[order]],
            "timestamp": times[order],
            "event": events[order],
            "rating": pa.array(ratings[order], from_pandas=True),
        }
    )


def _write_table(path: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())
