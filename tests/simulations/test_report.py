"""Laws of the run record and of the page made from it, on made-up but complete runs."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from mmrec_model.config import FeatureSpec, PrivacyConfig, RunConfig
from mmrec_model.errors import DataError
from mmrec_model.privacy.noise import SEEDED_SOURCE, SYSTEM_SOURCE
from simulations.figures import learning_curve
from simulations.report import write_report
from simulations.report_content import floor_for_partners, fusion_sentence, result_sentence, systems, verdict_kind
from simulations.report_numbers import ABSENT, delta_in_words, human_bytes, human_seconds, plain_delta, signed
from simulations.run_record import RunRecord, as_json, parse_run, read_run, write_run

HOSTILE = "<script>alert(1)</script>"
NAMES = ("France", "Italy", HOSTILE, "Portugal", "$\\frac{1}{$", "São Paulo & Söhne \"x\" 'y'", "\u202egnirts\x00\n")
VOID = {"meta", "br", "link", "img", "hr", "input"}


def metrics(level: float) -> dict[str, float]:
    return {
        "recall_at_10": level * 2.0,
        "recall_at_20": level * 3.0,
        "ndcg_at_10": level,
        "ndcg_at_20": level * 1.3,
        "mrr": level * 0.9,
    }


def ladder(*, private: bool) -> dict[str, Any]:
    """Three rungs, the middle one exported."""
    values = {"content": 0.0503, "pairs": 0.0861, "trained": 0.0832}
    released = {
        name: {"value": value + 0.001, "error": 0.002 if private else 0.0, "central": value}
        for name, value in values.items()
    }
    return {
        "exported": "pairs",
        "metric": "ndcg_at_10",
        "rungs": {name: {"test": metrics(value), "released": released[name]} for name, value in values.items()},
        "reasons": ["Pairs get 80% of the budget."],
        "pair_items": 1007,
        "pair_dims": 0,
        "modalities": {"text": 0.026, "image": 0.0},
        "popularity_cap": 20,
    }


def made_up_run(*, partners: int = 7, rounds: int = 12, private: bool = True) -> dict[str, Any]:
    """A whole record, as a simulation would write it."""
    privacy = (
        PrivacyConfig(epsilon=8.0, noise_multiplier=1.4, popularity_noise_multiplier=4.0)
        if private
        else PrivacyConfig(mechanism="none", epsilon=None, noise_multiplier=0.0, popularity_noise_multiplier=0.0)
    )
    config = RunConfig(
        run_id="demo", seed=7, features=FeatureSpec(digest="ab" * 32, items=1007, dims={"text": 128}), privacy=privacy
    )
    epsilon = 7.98 if private else None
    plan: list[dict[str, Any]] = [
        {"type": "gaussian", "noise_multiplier": 4.0, "count": 1},
        {"type": "sampled_gaussian", "sample_rate": 0.2, "noise_multiplier": 1.4, "steps": rounds},
    ]
    return {
        "schema": 4,
        "command": "mmrec simulate --data wines --epsilon 8 --rounds 12 --seed 7 --out out",
        "version": {"mmrec": "0.1.0", "python": "3.11.2", "torch": "2.11.0", "flwr": "1.41.0", "opacus": "1.6.0"},
        "config": config.model_dump(mode="json"),
        "data": {
            "name": "Wines of the world",
            "users": 10_561,
            "items": 1007,
            "interactions": 150_000,
            "partners": partners,
            "quarantined": {"future_timestamp": 12, "duplicate": 1304},
            "known_answer": {"taste_dimensions": 4, "weights": [0.5, 0.25]},
        },
        "features": {
            "digest": "sha256:" + "ab" * 32,
            "modalities": {
                "text": {
                    "encoder": "all-MiniLM-L6-v2",
                    "note": "",
                    "dim": 384,
                    "dims": 128,
                    "present": 1007,
                    "missing": 0,
                },
                "image": {
                    "encoder": "small-cnn",
                    "note": "random weights made by configuration",
                    "dim": 64,
                    "dims": 32,
                    "present": 100,
                    "missing": 907,
                },
            },
            "encoded_now": 1107,
        },
        "model": {"scope": "fusion", "trained_weights": 2354, "weights": 2354},
        "partners": [partner(number, epsilon) for number in range(partners)],
        "metrics": metrics(0.0832),
        "standard_errors": metrics(0.0011),
        "users_evaluated": 10_304,
        "floors": {
            "chance": metrics(0.0042),
            "popularity_dp": metrics(0.0401),
            "free_content": metrics(0.0503),
            "free_content_with_prior": metrics(0.0791),
        },
        "floor_standard_errors": {
            "popularity_dp": metrics(0.0014),
            "free_content": metrics(0.0016),
            "free_content_with_prior": metrics(0.0018),
        },
        "baselines": {"popularity": metrics(0.0403), "item_knn": metrics(0.1102), "ease": metrics(0.1125)},
        "baseline_standard_errors": {"ease": metrics(0.0022)},
        "heads": {},
        "verdict": {
            "best_floor": "free_content_with_prior",
            "metric": "ndcg_at_10",
            "difference": 0.0041,
            "low": 0.0022,
            "high": 0.0060,
        },
        "alone": {
            "metric": "ndcg_at_10",
            "partners": partners,
            "better": min(partners, 5),
            "mean": 0.0093,
            "worst": -0.0121,
            "difference": 0.0102,
            "low": 0.0061,
            "high": 0.0144,
            "left_out": {"ease": "25,000 items, of at most 20,000 all pairs are compared"},
        },
        "joined": {
            "metric": "ndcg_at_10",
            "partners": partners,
            "better": partners,
            "mean": 0.0193,
            "worst": 0.0011,
            "difference": 0.0202,
            "low": 0.0161,
            "high": 0.0244,
            "left_out": {},
        },
        "rounds": [
            {
                "round": number,
                "validation": metrics(0.079 + 0.006 * (1 - 0.8**number)),
                "replies": partners if number else 0,
                "rejected": {"norm": 1} if number == 3 else {},
                "seconds": 1.5,
                "epsilon": None if epsilon is None else epsilon * (0.3 + 0.7 * (number / max(rounds, 1)) ** 0.5),
                "clip": None,
            }
            for number in range(rounds + 1 if rounds else 0)
        ],
        "evaluations": evaluations(rounds) if private and rounds else [],
        "ladder": ladder(private=private),
        "seconds": {"encode": 61.2, "train": 204.0, "evaluate": 9.1},
        "privacy": {
            "relation": "zero_out",
            "delta": 1e-5 if private else None,
            "epsilon": epsilon,
            "epsilon_replace_one": 15.31 if private else None,
            "mu_gdp": 1.52 if private else None,
            "plan": plan if private else [{"type": "non_private"}],
            "noise_source": SEEDED_SOURCE,
            "note": "Every partner draws its own noise.",
        },
        "wall_seconds": 275.4,
        "notes": [],
    }


def evaluations(rounds: int) -> list[dict[str, Any]]:
    """One that gave no figure, and one of the exported model."""
    silent = {"value": None, "error": None, "central": 0.0811}
    told = {"value": 0.0856, "error": 0.0031, "central": 0.0829}
    users = {"users": 9_988.3, "users_error": 21.4, "central_users": 10_012}
    none = {"users": None, "users_error": None, "central_users": 10_012}
    answers: dict[str, Any] = {"replies": 1, "rejected": {"refused_by_partner": 6}}
    return [
        {"round": 5, "exported": False, "metrics": {"ndcg_at_10": silent}, **none, **answers},
        {"round": rounds, "exported": True, "metrics": {"ndcg_at_10": told, "mrr": told}, **users, **answers},
    ]


def partner(number: int, epsilon: float | None) -> dict[str, Any]:
    level = 0.05 + 0.045 * ((number * 7) % 11) / 11
    return {
        "name": NAMES[number] if number < len(NAMES) else f"Partner {number:02d}",
        "users": max(3900 // (number + 1), 30),
        "epsilon": None if epsilon is None else epsilon * (1.0 if number != 3 else 0.7),
        "delta": None if epsilon is None else 1e-5,
        "epsilon_replace_one": None if epsilon is None else 15.31,
        "bytes_up": 812_340 + number,
        "bytes_down": 1_624_000,
        "seconds": 31.4,
        "metrics": None if number == 4 else metrics(level),
        "floor_metrics": {"free_content": metrics(level * (0.7 + 0.1 * (number % 5)))},
        "alone": None
        if number == 4
        else {"system": ("free_content_with_prior", "ease")[number % 2], "validation": {}, "metrics": metrics(0.06)},
        "home": None
        if number == 4
        else {
            "pairs_weight": 0.5, "prior_weight": 0.1, "content_base": False,
            "validation": {"home": 0.1, "exported": 0.09}, "metrics": metrics(0.071),
        },
    }  # fmt: skip


class Page(HTMLParser):
    """Tags, attributes and text of a page; checks that elements nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def page(run: dict[str, Any], folder: Path) -> tuple[str, Page]:
    html = write_report(run, folder).read_text(encoding="utf-8")
    return html, Page(html)


SHAPES = [
    pytest.param({}, id="private"),
    pytest.param({"private": False}, id="not-private"),
    pytest.param({"partners": 1}, id="one-partner"),
    pytest.param({"partners": 40}, id="forty-partners"),
    pytest.param({"rounds": 0}, id="no-rounds"),
    pytest.param({"partners": 0, "rounds": 0, "private": False}, id="nothing"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_run_gives_one_page_that_loads_and_runs_nothing(shape: dict[str, Any], tmp_path: Path) -> None:
    html, found = page(made_up_run(**shape), tmp_path)
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "link", "iframe", "img", "object", "embed", "base", "form"}
    for _, attributes in found.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href", "src"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "Traceback" not in html
    assert not re.search(r"\b(nan|None|Undefined)\b", found.words)


def test_only_a_run_with_adaptive_clipping_shows_its_clip(tmp_path: Path) -> None:
    run = made_up_run()
    assert "The clip" not in page(run, tmp_path)[1].words
    for row in run["rounds"]:
        row["clip"] = 1.0 / (1 + row["round"])
    html, found = page(run, tmp_path)
    assert "went from 1 to 0.0769 (0.0769 at least, 1 at most)" in found.words
    assert 'id="f4-' in html


def test_a_run_that_only_measured_its_start_has_no_training_rounds(tmp_path: Path) -> None:
    run = made_up_run(partners=1)
    run["rounds"] = run["rounds"][:1]
    _, found = page(run, tmp_path)
    assert "0 training rounds" in found.words


def test_hostile_names_are_shown_as_text_in_tables_and_figures(tmp_path: Path) -> None:
    html, found = page(made_up_run(), tmp_path)
    assert HOSTILE in found.words
    assert HOSTILE not in html
    assert html.count("&lt;script&gt;alert") >= 3
    assert "$\\frac{1}{$" in found.words
    assert "\u202e" not in html
    assert "\x00" not in html


def test_every_text_of_the_record_is_escaped(tmp_path: Path) -> None:
    run = made_up_run()
    mark = "<b onclick='x()'>&\"boo"
    run["command"] = run["data"]["name"] = run["privacy"]["note"] = run["privacy"]["noise_source"] = mark
    run["privacy"]["relation"] = mark
    run["data"]["quarantined"] = {mark: 1}
    run["data"]["known_answer"] = {mark: mark}
    run["features"]["digest"] = mark
    run["features"]["modalities"] = {mark: {**run["features"]["modalities"]["text"], "encoder": mark, "note": mark}}
    run["floors"][mark] = run["baselines"][mark] = metrics(0.01)
    run["seconds"] = {mark: 1.0}
    run["config"][mark] = mark
    run["privacy"]["plan"].append({"type": mark, mark: mark})
    run["rounds"][1]["rejected"] = {mark: 2}
    run["evaluations"][0]["metrics"][mark] = run["evaluations"][0]["metrics"]["ndcg_at_10"]
    run["version"] = dict.fromkeys(run["version"], mark)
    html, found = page(run, tmp_path)
    assert mark not in html
    assert "b" not in {tag for tag, _ in found.tags}
    assert found.words.count("boo") >= 20


@pytest.mark.parametrize(
    ("model", "training", "words"),
    [
        ({}, {}, "attention over text, image"),
        ({"fusion": "cross_attention", "modalities": ["image"]}, {}, "cross attention over image"),
        (
            {"fusion": "decision", "decision_rule": "vote", "decision_weights": "local"},
            {"modality_dropout": 0.25},
            "decision over text, image; local weights, combined by rule vote; 25% of them hidden in training",
        ),
    ],
)
def test_the_page_says_how_modalities_were_fused(model, training, words, tmp_path: Path) -> None:
    run = made_up_run()
    run["config"]["model"] |= model
    run["config"]["training"] |= training
    assert fusion_sentence(parse_run(run)) == words
    assert words in page(run, tmp_path)[1].words
    if not model:
        run["config"] = {}
        assert fusion_sentence(parse_run(run)) == words


def test_ids_of_figures_do_not_collide(tmp_path: Path) -> None:
    _, found = page(made_up_run(partners=40), tmp_path)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    groups = {name.split("-")[0] for name in ids if name}
    assert groups == {"f0", "f1", "f2", "f3"}
    used = [attributes["xlink:href"] for tag, attributes in found.tags if tag == "use"]
    assert {str(name)[1:] for name in used} <= set(ids)


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    first, _ = page(made_up_run(), tmp_path / "a")
    second, _ = page(made_up_run(), tmp_path / "b")
    assert first == second


@pytest.mark.parametrize(
    ("low", "high", "kind", "words"),
    [
        (0.001, 0.002, "helps", "It was worth it."),
        (-0.002, -0.001, "hurts", "It was not worth it."),
        (-0.001, 0.002, "unclear", "No measurable difference."),
        (0.0, 0.002, "unclear", "No measurable difference."),
    ],
)
def test_the_verdict_follows_the_interval(low: float, high: float, kind: str, words: str, tmp_path: Path) -> None:
    run = made_up_run()
    run["verdict"] |= {"difference": (low + high) / 2, "low": low, "high": high}
    assert verdict_kind(parse_run(run)) == kind
    _, found = page(run, tmp_path)
    assert words in found.words


def test_the_first_sentence_names_price_result_floor_and_ceiling() -> None:
    sentence = result_sentence(parse_run(made_up_run()))
    for part in ("ε 7.98", "δ 1e-5", "0.0832 ± 0.0011", "Free content + popularity prior", "0.0791", "EASE", "0.1125"):
        assert part in sentence
    assert result_sentence(parse_run(made_up_run(private=False))).startswith("Without differential privacy")


def test_the_guarantee_says_what_it_does_not_cover(tmp_path: Path) -> None:
    _, private = page(made_up_run(), tmp_path / "a")
    for part in (
        "It does not cover",
        "prices add up",
        "knows the seed",
        "15.31",
        "1 noised sum over all people and 12",
    ):
        assert part in private.words
    run = made_up_run()
    run["privacy"]["noise_source"] = SYSTEM_SOURCE
    assert "knows the seed" not in page(run, tmp_path / "c")[1].words
    _, bare = page(made_up_run(private=False), tmp_path / "b")
    assert "gives no differential privacy" in bare.words
    assert "It covers" not in bare.words


def test_worst_partner_data_facts_cost_and_way_back_are_on_the_page(tmp_path: Path) -> None:
    run = made_up_run()
    _, found = page(run, tmp_path)
    assert "Worst partner: France at ndcg@10 0.0500" in found.words
    for part in ("duplicate: 1,304", "random weights made by configuration", "(90 %)", "812.3 kB", "norm 1"):
        assert part in found.words
    for part in (run["command"], "Opacus 1.6.0", "Seed 7", "training.sample_rate 0.2"):
        assert part in found.words


def test_every_partner_stands_beside_what_it_has_alone(tmp_path: Path) -> None:
    _, found = page(made_up_run(), tmp_path)
    for part in (
        "0.0600 free content 0.0710 +0.0110",
        "0.0600 own EASE 0.0710",
        f"5 of 7 partners gain; ndcg@10 +0.0093 on average over partners, {signed(-0.0121)} at the worst",
        "+0.0102, 95 % interval +0.0061 to +0.0144, which lies above zero",
        "With them: 7 of 7 partners gain; ndcg@10 +0.0193",
        "EASE was left out (25,000 items",
    ):
        assert part in found.words
    without = made_up_run()
    for one in without["partners"]:
        one["home"] = None
    _, found = page({**without, "joined": None}, tmp_path / "without")
    assert f"0.0600 free content {ABSENT} {signed(-0.01)}" in found.words
    assert "With them" not in found.words


def test_partners_stand_beside_the_best_floor_where_it_was_measured(tmp_path: Path) -> None:
    run = made_up_run()
    assert floor_for_partners(RunRecord.model_validate_json(json.dumps(run))) == "free_content"
    for one in run["partners"]:
        one["floor_metrics"]["free_content_with_prior"] = metrics(0.07)
    assert "at or above Free content + popularity prior at" in page(run, tmp_path)[1].words


def test_a_released_figure_stands_with_its_error_beside_the_one_without_noise(tmp_path: Path) -> None:
    _, found = page(made_up_run(), tmp_path / "a")
    for part in (
        f"the state after round 5 ndcg@10 {ABSENT} 0.0811 1",
        "the exported model ndcg@10 0.0856 ± 0.0031 0.0829 1",
        "1 of 2 evaluations gave no figure",
        "Squares are what the partners released",
    ):
        assert part in found.words
    told, silent = made_up_run(), made_up_run() | {"evaluations": []}
    assert "Released validation" not in page(silent, tmp_path / "b")[0]
    drawings = [learning_curve(parse_run(run), []) or "" for run in (told, silent)]
    assert len(drawings[0]) > len(drawings[1])


def test_all_systems_are_listed_best_first_with_their_distance_from_chance() -> None:
    rows = systems(parse_run(made_up_run()))
    values = [row.metrics.ndcg_at_10 for row in rows]
    assert values == sorted(values, reverse=True)
    assert (rows[0].label, rows[-1].label, len(rows)) == ("EASE", "Chance", 8)
    assert rows[0].times_chance == pytest.approx(0.1125 / 0.0042)


def test_a_record_survives_the_file_and_its_bytes_do_not_depend_on_key_order(tmp_path: Path) -> None:
    run = made_up_run()
    record = parse_run(run)
    path = write_run(record, tmp_path / "a")
    assert read_run(path) == read_run(tmp_path / "a") == record
    assert as_json(record) == json.loads(path.read_text(encoding="utf-8")) == run
    turned = parse_run(dict(reversed(run.items())) | {"floors": dict(reversed(run["floors"].items()))})
    assert write_run(turned, tmp_path / "b").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("schema",), 2, "schema 2"),
        (("surprise",), 1, "surprise"),
        (("metrics", "ndcg_at_10"), 1.5, "metrics.ndcg_at_10"),
        (("metrics", "ndcg_at_10"), float("nan"), "not JSON"),
        (("metrics", "ndcg_at_10"), "0.1", "valid number"),
        (("partners", 0, "users"), -1, "partners.0.users"),
        (("verdict", "best_floor"), "magic", "magic"),
        (("verdict", "low"), 1.0, "upside down"),
        (("floor_standard_errors", "magic"), metrics(0.1), "magic"),
    ],
)
def test_a_record_that_is_not_of_the_schema_is_refused_with_the_place(
    place: tuple[Any, ...], value: Any, message: str
) -> None:
    run = copy.deepcopy(made_up_run())
    target: Any = run
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(DataError, match=message):
        parse_run(run)


def test_a_file_that_is_no_record_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"[]", b"\xff\xfe", b"{}"):
        (tmp_path / "run.json").write_bytes(content)
        with pytest.raises(DataError, match=r"run\.json"):
            read_run(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_run(tmp_path / "absent.json")


def test_numbers_read_the_same_everywhere() -> None:
    assert [human_bytes(n) for n in (0, 999, 16_400, 2_500_000, 10**13)] == [
        "0 B",
        "999 B",
        "16.4 kB",
        "2.5 MB",
        "10.0 TB",
    ]
    assert [human_seconds(s) for s in (0.042, 12.34, 59.96, 245, 7380)] == [
        "0.04 s",
        "12.3 s",
        "1 min 00 s",
        "4 min 05 s",
        "2 h 03 min",
    ]
    assert [plain_delta(d) for d in (1e-5, 1.25e-6, 0.01, 0.0001, None)] == ["1e-5", "1.25e-6", "0.01", "1e-4", "none"]
    assert [signed(value) for value in (0.1, -0.1, None)] == ["+0.1000", "\u22120.1000", "\u2013"]
    assert delta_in_words(1e-5) == " (1 in 100,000)"


def test_the_description_of_the_file_names_every_field(repository: Path) -> None:
    text = (repository / "docs" / "run-json.md").read_text(encoding="utf-8")
    classes = [RunRecord]
    for kind in classes:
        for name, field in kind.model_fields.items():
            assert f"`{field.alias or name}`" in text, f"{kind.__name__}.{name}"
            inner = [part for part in (field.annotation, *get_args(field.annotation)) if isinstance(part, type)]
            classes += [part for part in inner if issubclass(part, BaseModel) and part not in classes]
    assert len(classes) >= 9


def test_notes_are_on_the_page_and_a_record_without_them_has_none(tmp_path: Path) -> None:
    run = made_up_run()
    del run["notes"]
    assert parse_run(run).notes == ()
    html, _ = page(run | {"notes": [f"The average does without round 3 {HOSTILE}"]}, tmp_path)
    assert "The average does without round 3" in html
    assert HOSTILE not in html


def test_the_page_shows_every_rung_what_the_gate_saw_and_what_left(tmp_path: Path) -> None:
    text, _ = page(made_up_run(), tmp_path)
    section = text[text.index("The ladder") :]
    for words in ("Free content alone", "Pairs of items alone", "0.0871", "exported", "Pairs get 80% of the budget."):
        assert words in section
    assert "best released ndcg@10 on the validation items: pairs of items alone" in section


def test_without_a_figure_the_page_says_that_the_floor_was_exported(tmp_path: Path) -> None:
    values = made_up_run()
    values["ladder"]["exported"] = "content"
    for rung in values["ladder"]["rungs"].values():
        rung["released"] = {"value": None, "error": None, "central": 0.05}
    assert "released no figure for the gate, so the floor was exported" in page(values, tmp_path)[0]
    values["ladder"]["metric"] = None
    assert "had no gate" in page(values, tmp_path)[0]


def test_the_page_names_the_cap_that_activity_gave_and_none_without_a_quantile(tmp_path: Path) -> None:
    values = made_up_run()
    assert "Popularity counted" not in page(values, tmp_path)[0]
    del values["ladder"]["popularity_cap"]
    assert parse_run(values).ladder.popularity_cap is None, "a record from before the field"
    values["ladder"]["popularity_cap"] = 11
    values["config"]["privacy"]["activity_quantile"] = 0.9
    found = page(values, tmp_path)[0]
    assert "Popularity counted 11 distinct items of a user at most" in found
    assert "puts 90% of them within that, and the plan allows 20." in found
