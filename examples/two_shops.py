"""What `two_partners.sh` needs beside the commands of mmrec: made-up shops, a plan, and the model of a finished run.

python two_shops.py make FOLDER NAME...          FOLDER/catalogue, and FOLDER/NAME with 60 made-up users of its own
python two_shops.py plan COORDINATOR BUNDLE OUT  a plan for all enrolled partners, from public facts alone
python two_shops.py model COORDINATOR BUNDLE     COORDINATOR/../model, from the run's exported state
"""  # noqa: INP001 - a program beside the package, not of it

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import load

from mmrec_model.config import TrainingConfig
from mmrec_model.data.writing import write_partner
from mmrec_model.features.folder import open_bundle
from mmrec_model.model.folder import save_model
from server.app import read_plan
from server.partners import PARTNERS, read_list
from simulations.workspace import Recipe, plan

ITEMS: Final = 24
USERS: Final = 60
HISTORY: Final = 5
ROUNDS: Final = 2
EPSILON: Final = 3.0
DELTA: Final = 1e-5
FIRST_DAY: Final = 1_600_000_000
DAY: Final = 86_400


def make(folder: Path, names: Sequence[str]) -> None:
    """A catalogue of red and blue things, and shops whose users like one of the two."""
    catalogue = folder / "catalogue"
    catalogue.mkdir(parents=True)
    rows: dict[str, list[str]] = {"item_id": [], "title": [], "text": [], "image": []}
    for item in range(ITEMS):
        colour, word = ((200, 30, 9 * item), "red") if item % 2 else ((9 * item, 30, 200), "blue")
        Image.new("RGB", (40, 40), colour).save(catalogue / f"{item}.png")
        for column, value in zip(rows, (f"i{item}", f"{word} {item}", f"a {word} thing", f"{item}.png"), strict=True):
            rows[column].append(value)
    for place, name in enumerate(names):
        _write_shop(folder / name, name, place)
    pq.write_table(pa.table(rows), catalogue / "items.parquet")


def make_plan(coordinator: Path, bundle: Path, out: Path) -> None:
    """The run that the coordinator proposes, written to `out`; of the partners only their public numbers are used."""
    partners = {name: entry.users for name, entry in read_list(coordinator / PARTNERS).items()}
    groups = {name: ["a user"] * (users or 0) for name, users in partners.items()}
    training = TrainingConfig(rounds=ROUNDS, sample_rate=0.5, negatives=4)
    workspace = out.parent
    plan(Recipe(workspace, workspace, EPSILON, DELTA, 0, training, gate=None, pairs=False), open_bundle(bundle), groups)
    (workspace / "plan.json").replace(out)


def make_model(coordinator: Path, bundle: Path) -> None:
    """The folders `model` and `features` that `MultimodalRecommender.load` reads."""
    workspace = coordinator.resolve().parent
    state = load((coordinator / "final.safetensors").read_bytes())
    save_model(workspace / "model", read_plan(workspace / "plan.json"), state, card="# Two made-up shops\n")
    shutil.copytree(bundle, workspace / "features", dirs_exist_ok=True)


def main(words: Sequence[str]) -> int:
    """Do what the first word says; the exit status."""
    match words:
        case ["make", folder, *names] if names:
            make(Path(folder), names)
        case ["plan", coordinator, bundle, out]:
            make_plan(Path(coordinator), Path(bundle), Path(out))
        case ["model", coordinator, bundle]:
            make_model(Path(coordinator), Path(bundle))
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2
    return 0


def _write_shop(folder: Path, name: str, taste: int) -> None:
    draw = np.random.default_rng(taste)
    rows = []
    for user in range(USERS):
        likes = np.arange((taste + user // 50) % 2, ITEMS, 2)
        seen = draw.choice(likes, size=HISTORY, replace=False)
        rows += [(f"{name}-{user}", f"i{item}", FIRST_DAY + place * DAY) for place, item in enumerate(seen)]
    columns = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))
    users = pa.table({"user_id": [f"{name}-{user}" for user in range(USERS)]})
    write_partner(folder, interactions=pa.table(columns), users=users)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
