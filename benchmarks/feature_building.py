"""What the feature store costs: wall seconds of building features over those of the bare network on prepared batches.

`python -m benchmarks.feature_building --json` prints one JSON object on its last line; `store_over_bare` in it is the
largest ratio of all cases. Bare is the network's forward pass alone, over the very batches that the store's path gave
it. The store's path is everything from texts or files to durable vectors in an empty store: hashing, reading, decoding
or tokenising, resizing, the network, writing, fsync. Both are interleaved in one process on one thread, the order
swapped every round; the ratio is the median over the rounds. `cpu` is the same with CPU seconds of all threads and
decoding processes' time left out. `known` is the time of a second call, which finds everything, per item.

Cases: `text` is MiniLM where its package is installed, else the configured network; `text_configured` the latter;
`picture` a ResNet-50 at 224 pixels on photo-sized JPEGs (weights drawn, which costs the same as published ones);
`picture_small` the configured network on 96-pixel PNGs as the synthetic data set draws them. Each picture case runs
with `--workers` decoding processes and, as `..._caller`, without. Needs a core for the network and one for decoding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.encoders.interface import Encoder
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.encoders.text import configured_text_encoder
from mmrec_model.features.store import FeatureStore
from simulations.synthetic.attributes import ATTRIBUTES
from simulations.synthetic.pictures import draw_picture

CASES = ("text", "text_configured", "picture", "picture_small", "picture_caller", "picture_small_caller")
PHOTO_SIDE = 500
CHUNK = 256
WORDS = 400
"""Different words of the made-up texts; a text has 10 to 60."""


@dataclass(frozen=True)
class Case:
    """An encoder with what it reads."""

    encoder: Encoder
    inputs: list[str | Path]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--pictures", type=int, default=512, help="small ones; an eighth as many photos")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.cases:
            found[name] = _measure(_case(name, Path(folder), options), options.rounds)
            print(name.ljust(22), "  ".join(f"{key} {value:g}" for key, value in found[name].items()), flush=True)
    if options.json:
        ratios = [values["store_over_bare"] for name, values in found.items() if not name.endswith("_caller")]
        headline = {"store_over_bare": max(ratios)} if ratios else {}
        print(json.dumps({**headline, "workers": options.workers, "torch": torch.__version__, "cases": found}))


def _measure(case: Case, rounds: int) -> dict[str, float]:
    bare, known = _bare(case), 0.0
    walls: dict[str, list[float]] = {"bare": [], "store": []}
    cpus: dict[str, list[float]] = {"bare": [], "store": []}
    for turn in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            build = _builder(case, Path(folder))
            pair = [("bare", bare), ("store", build)]
            for name, run in pair if turn % 2 else pair[::-1]:
                wall, cpu = _seconds(run)
                walls[name].append(wall)
                cpus[name].append(cpu)
            known = _seconds(build)[0]
    count = len(case.inputs)
    return {
        "store_over_bare": _ratio(walls),
        "store_over_bare_cpu": _ratio(cpus),
        "bare_ms": round(1e3 * statistics.median(walls["bare"]) / count, 3),
        "store_ms": round(1e3 * statistics.median(walls["store"]) / count, 3),
        "known_ms": round(1e3 * known / count, 3),
    }


def _seconds(run: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds of this process's threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def _ratio(seconds: dict[str, list[float]]) -> float:
    pairs = zip(seconds["store"], seconds["bare"], strict=True)
    return round(statistics.median(store / bare for store, bare in pairs), 3)


def _builder(case: Case, folder: Path) -> Callable[[], None]:
    """A build into the store in `folder`; the second call finds everything."""

    def build() -> None:
        _, ok, _ = FeatureStore(folder).get_or_encode(case.encoder, case.inputs, chunk=CHUNK)
        if not ok.all():
            raise SystemExit("a medium of the benchmark could not be read")

    return build


def _bare(case: Case) -> Callable[[], None]:
    """A replay of the batches that a build gives the network."""
    network = next(value for value in vars(case.encoder).values() if isinstance(value, nn.Module))
    batches: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = network.register_forward_pre_hook(
        lambda _network, given, named: batches.append((given, named)), with_kwargs=True
    )
    with tempfile.TemporaryDirectory() as folder:
        _builder(case, Path(folder))()
    hook.remove()

    def replay() -> None:
        with torch.inference_mode():
            for given, named in batches:
                network(*given, **named)

    return replay


def _case(name: str, folder: Path, options: argparse.Namespace) -> Case:
    kind = name.removesuffix("_caller")
    if kind.startswith("text"):
        config = _config("text", 0)
        encoder = configured_text_encoder(config) if name == "text_configured" else load_encoder(config)
        return Case(encoder, list(_texts(options.texts)))
    workers = 0 if name.endswith("_caller") else options.workers
    if kind == "picture_small":
        return Case(load_encoder(_config("image", workers)), list(_drawings(folder, options.pictures)))
    source = _resnet(folder / "resnet50")
    return Case(load_encoder(_config("image", workers, str(source))), list(_photos(folder, options.pictures // 8)))


def _config(modality: Modality, workers: int, source: str = "embedded") -> EncoderConfig:
    return EncoderConfig(modality=modality, source=source, workers=workers)


def _texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [
        " ".join(f"word{number}" for number in rng.integers(WORDS, size=rng.integers(10, 61))) for _ in range(count)
    ]


def _drawings(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"drawing{number}.png" for number in range(count)]
    for path in paths:
        values = {attribute.name: str(rng.choice(list(attribute.values))) for attribute in ATTRIBUTES}
        path.write_bytes(draw_picture(values, rng))
    return paths


def _photos(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"photo{number}.jpg" for number in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8))
        coarse.resize((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def _resnet(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    save_file(torchvision.models.resnet50(weights=None).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"weights": "ResNet50_Weights.IMAGENET1K_V2"}))
    return folder


if __name__ == "__main__":
    main()
