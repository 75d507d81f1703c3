"""Options of `mmrec simulate`, as types: what each of them accepts and what `--help` says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmrec_model.config import FusionName, RankingLoss

Data = Annotated[Path | None, typer.Option(help="Folder in partner format; without it, the embedded set is made.")]
Out = Annotated[Path, typer.Option(help="Folder for the run.")]
Epsilon = Annotated[float, typer.Option(help="Price of the whole run per user and partner; inf: no privacy.")]
Delta = Annotated[float, typer.Option(help="Failure probability of the guarantee.")]
Rounds = Annotated[int, typer.Option(min=0, help="Federated rounds; fewer in a scenario's cells.")]
Seed = Annotated[int, typer.Option(min=0, help="Of model, partition and simulated noise.")]
Silo = Annotated[
    str | None, typer.Option(help="Column that names a user's partner; by default the first silo_* column.")
]
Partners = Annotated[int | None, typer.Option(min=1, help="Make this many equal partners instead.")]
Clipping = Annotated[
    Literal["flat", "adaptive"],
    typer.Option(help="Bound of a user's gradient: fixed, or following the gradients' median by a priced count."),
]
Fusion = Annotated[FusionName, typer.Option(help="How the modalities of an item are fused (docs/fusion.md).")]
Heads = Annotated[
    str, typer.Option(help="Learn these beside the ranking: ctr, cvr, rating, category; ctr=0.5 weighs a loss.")
]
CvrLoss = Annotated[
    Literal["conditional", "esmm"],
    typer.Option(help="Conversions: on clicked rows, or as pCTR * pCVR on all shown ones; esmm needs heads ctr, cvr."),
]
CtrScorer = Annotated[
    Literal["bilinear", "deepfm"], typer.Option(help="What scores a row for the head ctr (docs/heads.md).")
]
UserMedia = Annotated[
    list[str] | None,
    typer.Option(help="text or image of the users themselves, read by the user tower; once per medium."),
]
Impute = Annotated[
    Literal["off", "vector", "present"], typer.Option(help="Estimate vectors of missing media (docs/features.md).")
]
Quarantine = Annotated[
    float, typer.Option(min=0.0, max=0.2, help="Largest share of a medium to be made missing for disagreeing.")
]
Scope = Annotated[
    Literal["head", "fusion", "lora", "top", "full"],
    typer.Option(help="What is trained; lora, top and full train the text encoder too, which is slow."),
]
Tower = Annotated[
    Literal["attention", "sequence"], typer.Option(help="How a user's history is read: as a set, or in order.")
]
Loss = Annotated[RankingLoss, typer.Option(help="How the ranking is learned.")]
EvaluateEvery = Annotated[
    int, typer.Option(min=0, help="Release noised validation metrics after every n-th round, priced; 0: never.")
]
EvaluateFinal = Annotated[bool, typer.Option("--evaluate-final", help="Release them once for the exported model.")]
Split = Annotated[
    str | None,
    typer.Option(
        help="How to hold out: leave-last-out, user-time, global-time:MOMENT,MOMENT, each with +cold:SHARE "
        "(docs/evaluation.md); by default as the data pins. A rule replaces what is pinned."
    ),
]
Pairs = Annotated[
    bool, typer.Option("--pairs/--no-pairs", help="Release which items stand together, where there are enough users.")
]
ActivityQuantile = Annotated[
    float,
    typer.Option(
        help="Count as many items of a user for popularity as this share of the users has, by one more release; "
        "0 for the plan's own cap."
    ),
]
Gate = Annotated[
    bool, typer.Option("--gate/--no-gate", help="Export what scores best on a priced release, never below the floors.")
]
Engine = Annotated[
    Literal["loopback", "flower"], typer.Option(help="In this process, or Flower's own simulation with Ray.")
]
Scenario = Annotated[
    str | None, typer.Option(help="Run a named grid of small federations instead (docs/scenarios.md).")
]
Only = Annotated[list[str] | None, typer.Option(help="Cells of the scenario to run, AXIS=VALUE,VALUE; once per axis.")]
Seeds = Annotated[int, typer.Option(min=1, help="Repeat the scenario's cells with this many seeds.")]
Rivals = Annotated[
    str | None,
    typer.Option(help="Rivals to find beside the scenario's cells: names with commas, or none; all unless given."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")]
Prepare = Annotated[bool, typer.Option("--prepare", help="Stop before training, for `flwr run`.")]
Finish = Annotated[bool, typer.Option("--finish", help="Assess and report a folder that was trained, by its own plan.")]
