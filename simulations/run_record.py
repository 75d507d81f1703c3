"""The one definition of `run.json`: what a federation on one machine did, cost and reached. Schema version 4.

Writer and reader share these frozen, strict classes, so a record that the report can read is a record that was written
whole. `docs/run-json.md` explains every field. Metrics of `RunRecord` come from held-out rows and carry no noise: they
describe a simulation, where the data belongs to whoever runs it, and are no release of a real partner. The released
values in `evaluations` and `ladder` are the exception.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, JsonValue, ValidationError, model_validator

from mmrec_model.config import HeadName
from mmrec_model.config_types import Strict
from mmrec_model.errors import DataError
from mmrec_model.storage import write_atomically

SCHEMA: Literal[4] = 4
RUN_FILE = "run.json"

MetricName: TypeAlias = Literal["recall_at_10", "recall_at_20", "ndcg_at_10", "ndcg_at_20", "mrr"]
Natural: TypeAlias = Annotated[int, Field(ge=0)]
Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Amount: TypeAlias = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(ge=0.0, le=1.0)]


class Metrics(Strict):
    """Ranking metrics, or their standard errors; each 0..1."""

    recall_at_10: Share
    recall_at_20: Share
    ndcg_at_10: Share
    ndcg_at_20: Share
    mrr: Share


class Versions(Strict):
    """Software that computed the run."""

    mmrec: str
    python: str
    torch: str
    flwr: str
    opacus: str


class DataFacts(Strict):
    """What was read. `quarantined` counts refused rows per code; `known_answer` belongs to synthetic data."""

    name: str
    users: Natural
    items: Natural
    interactions: Natural
    partners: Natural
    quarantined: dict[str, Natural]
    known_answer: dict[str, JsonValue] | None


class ModalityFacts(Strict):
    """One medium of the catalogue: its encoder, a note on the weights, widths before and after PCA, items with it."""

    encoder: str
    note: str
    dim: Natural
    dims: Natural
    present: Natural
    missing: Natural


class FeatureFacts(Strict):
    """The item features of the run; `encoded_now` counts vectors that were not in the store yet."""

    digest: str
    modalities: dict[str, ModalityFacts]
    encoded_now: Natural


class ModelFacts(Strict):
    """What was trained: the scope, the weights in it, and all weights of the model."""

    scope: str
    trained_weights: Natural
    weights: Natural


class AloneRecord(Strict):
    """What a partner has without the federation: the `system` that is best on its own validation items.

    `validation` holds ndcg@10 of each system there, empty without such items; `metrics` are of the chosen one.
    """

    system: str
    validation: dict[str, Share]
    metrics: Metrics


class PartnerRecord(Strict):
    """One partner.

    `epsilon` and its companions are null without privacy; `metrics` and `alone` are null where no user could be
    evaluated.
    """

    name: str
    users: Natural
    epsilon: Amount | None
    delta: Amount | None
    epsilon_replace_one: Amount | None
    bytes_up: Natural
    bytes_down: Natural
    seconds: Amount
    metrics: Metrics | None
    floor_metrics: dict[str, Metrics]
    alone: AloneRecord | None


class JoiningRecord(Strict):
    """The exported model minus what each partner has alone.

    `mean`, `worst` and `better`, how many gain, are over `partners`, each counting once; `difference` is over all users
    with the 95 % interval of a paired bootstrap. `left_out` says which system no partner was offered, and why.
    """

    metric: MetricName
    partners: Natural
    better: Natural
    mean: Finite
    worst: Finite
    difference: Finite
    low: Finite
    high: Finite
    left_out: dict[str, str]


class Verdict(Strict):
    """Model minus the best floor on the same users, with the 95 % interval of a paired bootstrap."""

    best_floor: str
    metric: MetricName
    difference: Finite
    low: Finite
    high: Finite


class HeadRecord(Strict):
    """One head on held-out rows; `constant_loss` is the loss of the best constant of the train rows.

    `loss` is the `measure`: cross-entropy in nats, or root mean square error. `mean` is the share of positives or the
    mean rating. `auc`, `gauc` and `ece` are null where they are not defined.
    """

    rows: Natural
    users: Natural
    mean: Finite | None
    measure: Literal["log_loss", "rmse"]
    loss: Amount
    constant_loss: Amount
    auc: Share | None
    gauc: Share | None
    ece: Share | None


class RoundRecord(Strict):
    """State after one round; round 0 is the start.

    `epsilon` is the largest spent at any partner so far; `clip` is that of the next round, null with flat clipping.
    """

    round: Natural
    validation: Metrics
    replies: Natural
    rejected: dict[str, Natural]
    seconds: Amount
    epsilon: Amount | None
    clip: Amount | None


class ReleasedMetric(Strict):
    """A metric as released, with the standard error of its noise, and without noise; null where there is no figure."""

    value: Finite | None
    error: Amount | None
    central: Share | None


class EvaluationRecord(Strict):
    """One priced evaluation: of the state after `round`, or of the exported state after the last round."""

    round: Natural
    exported: bool
    users: Finite | None
    users_error: Amount | None
    central_users: Natural
    metrics: dict[str, ReleasedMetric]
    replies: Natural
    rejected: dict[str, Natural]


class RungRecord(Strict):
    """One rung of the ladder on the test items, and what the gate saw of it on the validation items."""

    test: Metrics
    released: ReleasedMetric | None


class LadderRecord(Strict):
    """From what costs nothing to what was trained.

    `exported` is the rung that left the run; without a gate what was trained. `metric` is what the gate compared, null
    without one. `reasons` say how the budget was split. `pair_items` counts the items whose pairs were released,
    `pair_dims` the dimensions of features; `modalities` holds the weight of each modality's content in what unseen
    pairs are shrunk towards. `popularity_cap` is the number of distinct items of a user that the popularity release
    counted; null in a record that does not say.
    """

    exported: str
    metric: str | None
    rungs: dict[str, RungRecord]
    reasons: tuple[str, ...]
    pair_items: Natural
    pair_dims: Natural = 0
    modalities: dict[str, Amount]
    popularity_cap: Natural | None = None


class PrivacyRecord(Strict):
    """The guarantee of the whole plan at one partner; `plan` holds privacy event records."""

    relation: str
    delta: Amount | None
    epsilon: Amount | None
    epsilon_replace_one: Amount | None
    mu_gdp: Amount | None
    plan: list[dict[str, JsonValue]]
    noise_source: str
    note: str


class RunRecord(Strict):
    """All of `run.json`."""

    schema_: Annotated[Literal[4], Field(alias="schema")] = SCHEMA
    command: str
    version: Versions
    config: dict[str, JsonValue]
    data: DataFacts
    features: FeatureFacts
    model: ModelFacts
    partners: list[PartnerRecord]
    metrics: Metrics
    standard_errors: Metrics
    users_evaluated: Natural
    floors: dict[str, Metrics]
    baselines: dict[str, Metrics]
    floor_standard_errors: dict[str, Metrics]
    baseline_standard_errors: dict[str, Metrics]
    verdict: Verdict
    alone: JoiningRecord
    heads: dict[HeadName, HeadRecord]
    rounds: list[RoundRecord]
    evaluations: list[EvaluationRecord]
    ladder: LadderRecord
    seconds: dict[str, Amount]
    privacy: PrivacyRecord
    wall_seconds: Amount
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        for part, errors in (("floors", self.floor_standard_errors), ("baselines", self.baseline_standard_errors)):
            strange = sorted(set(errors) - set(getattr(self, part)))
            if strange:
                raise ValueError(f"standard errors of {strange}, which are not among the {part}")
        if self.verdict.best_floor not in self.floors:
            raise ValueError(f"best floor {self.verdict.best_floor!r} is not among the floors {sorted(self.floors)}")
        if not self.verdict.low <= self.verdict.high:
            raise ValueError(f"the verdict's interval {self.verdict.low} to {self.verdict.high} is upside down")
        return self


def parse_run(value: Mapping[str, object], *, source: str = RUN_FILE) -> RunRecord:
    """Check a dictionary of JSON values strictly.

    Args:
        value: the document.
        source: what to call it in an error.

    Raises:
        DataError: another schema version, an unknown or missing field, a wrong type, or a number out of range.
    """
    if value.get("schema") != SCHEMA:
        raise DataError(
            f"{source} has schema {value.get('schema')!r}, this version reads {SCHEMA}",
            remedy="Read it with the version of mmrec that wrote it",
        )
    try:
        return RunRecord.model_validate_json(json.dumps(value, allow_nan=False))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        problem = f"{source}: {place}: {first['msg']}"
    except (TypeError, ValueError) as error:
        problem = f"{source} is not JSON: {error}"
    raise DataError(problem, remedy="The fields are described in docs/run-json.md")


def write_run(record: RunRecord, folder: Path) -> Path:
    """Write `run.json` whole or not at all; equal records give equal bytes.

    Returns:
        The path of the file.
    """
    path = folder / RUN_FILE
    text = json.dumps(as_json(record), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())
    return path


def as_json(record: RunRecord) -> dict[str, JsonValue]:
    """The record as the dictionary that `parse_run` and `write_report` take."""
    return record.model_dump(mode="json", by_alias=True)


def read_run(path: Path) -> RunRecord:
    """Read `path`, or `run.json` in it if it is a folder.

    Raises:
        DataError: absent, not JSON in UTF-8, or not of the schema.
    """
    file = path / RUN_FILE if path.is_dir() else path
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}", remedy="Give the output folder of a finished run") from error
    if not isinstance(value, dict):
        raise DataError(f"{file} holds a {type(value).__name__}", remedy="Give the output folder of a finished run")
    return parse_run(value, source=str(file))
