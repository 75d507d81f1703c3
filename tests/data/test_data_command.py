"""`mmrec data`: what it prints, what it refuses, and that a made folder trains."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mmrec_model.data import cli
from mmrec_model.data.description import bounded_shares
from mmrec_model.errors import MmrecError, UsageError

MAPPED = ("--map", "user=who", "--map", "item=what", "--map", "time=when", "--map", "rating=stars")


@pytest.fixture
def run() -> Callable[..., str]:
    """Run the command; what it prints, or the error it ends with."""
    app = typer.Typer()
    app.callback()(lambda: None)
    cli.register(app)

    def _run(*words: str | Path) -> str:
        done = CliRunner().invoke(app, ["data", *map(str, words)])
        if isinstance(done.exception, MmrecError):
            raise done.exception
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    return _run


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    rows = [f"u{user},i{item},{1 + (user + item) % 5},{1000 * user + item}" for user in range(6) for item in range(5)]
    (folder / "log.csv").write_text("who,what,stars,when\n" + "\n".join([*rows, "u1,i1,x,5"]) + "\n")
    return folder


def test_an_import_says_what_was_kept_and_lost(run, shop: Path, tmp_path: Path) -> None:
    words = (*MAPPED, "--min-rating", "3", "--malformed-share", "0.1")
    told = run("import", shop, "--out", tmp_path / "out", *words)
    assert "generic: 31 rows read, 18 kept" in told
    assert "lost, log/rating_not_finite: 1" in told
    assert "lost, below_min_rating: 12" in told
    assert "6 users, 5 items, 5 of them undescribed" in told
    assert (
        json.loads((tmp_path / "out" / "import.json").read_bytes())["options"]["mapping"]["interactions"]["user"]
        == "who"
    )


@pytest.mark.parametrize("since", ["1970-01-01T01:00", "3600", "1970-01-01T02:00+01:00"])
def test_since_is_a_date_in_utc_or_seconds(run, shop: Path, tmp_path: Path, since: str) -> None:
    words = ("--since", since, "--malformed-share", "0.1")
    assert "lost, before_since: 20" in run("import", shop, "--out", tmp_path / "out", *MAPPED, *words)


@pytest.mark.parametrize(
    "words",
    [
        ("--below", "impression"),
        ("--seed", "3"),
        ("--since", "yesterday"),
        ("--since", "nan"),
        ("--mapping", "x.toml"),
        ("--format", "hm"),
        ("--media", "none", "--images", "pictures"),
    ],
)
def test_options_that_would_do_nothing_or_make_no_sense_are_usage_errors(
    run, shop: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError):
        run("import", shop, "--out", tmp_path / "out", *MAPPED, *words)
    assert not (tmp_path / "out").exists()


def test_describe_says_that_it_is_for_the_partner_alone(run, small_partner: Path) -> None:
    assert "For the partner alone" in run("describe", small_partner)
    assert json.loads(run("describe", small_partner, "--json"))["notice"] == cli.FOR_THE_PARTNER


def test_describe_fits_one_screen_and_counts_what_is_there(run, small_partner: Path) -> None:
    assert len(run("describe", small_partner).splitlines()) <= 45
    figures = json.loads(run("describe", small_partner, "--json"))
    assert (figures["users"], figures["items"], figures["interactions"]) == (90, 24, 450)
    assert figures["density"] == pytest.approx(450 / (90 * 24))
    assert figures["history_length"] == dict.fromkeys(figures["history_length"], 5)
    assert sum(figures["popularity_deciles"]) == pytest.approx(1.0)
    assert figures["popularity_deciles"] == sorted(figures["popularity_deciles"], reverse=True)
    assert figures["media"]["text"] == {"items": 1.0, "interactions": 1.0}
    assert figures["media"]["image"]["items"] == pytest.approx(19 / 24)
    assert figures["silos"]["silo_region"]["largest"] == {"north": 45, "south": 45}
    assert figures["bounded"] == dict.fromkeys(("pairs", "popularity", "training"), [0.0] * 4)
    assert figures["split"] == {
        "train_rows": 270,
        "validation_users": 90,
        "test_users": 90,
        "all_train_users": 0,
        "cold_test_users": 0,
    }
    assert (figures["from"], figures["ratings"], figures["events"]) == ("2020-09-13", None, {"none": 450})
    warnings = " ".join(figures["warnings"])
    assert "90 users, below 1,000" in warnings
    assert "2 of 2 values have fewer than 50 users" in warnings


def test_describe_counts_ratings_events_and_what_is_missing(run, write) -> None:
    rows = "user_id,item_id,timestamp,rating,event\nu,a,1,4,click\nu,b,2,,impression\nu,a,3,5,\nv,c,4,,click\nv,x,5,,\n"
    figures = json.loads(run("describe", write(interactions_csv=rows), "--json"))
    assert (figures["interactions"], figures["impressions"], figures["distinct_pairs"]) == (3, 1, 2)
    assert figures["ratings"]["counts"] == {"4": 1, "5": 1}
    assert figures["ratings"]["share"] == 0.5
    assert figures["events"] == {"none": 1, "impression": 1, "click": 2}
    assert figures["media"]["text"] == {"items": 0.75, "interactions": pytest.approx(2 / 3)}
    assert figures["quarantined"] == {"interactions/unknown_item": 1}
    warnings = " ".join(figures["warnings"])
    for told in ("25% of the items have neither", "no silo_* column", "no user has a test item", "1 rows or cells"):
        assert told in warnings


def test_the_figures_of_the_real_set_are_known(run, xwines: Path) -> None:
    figures = json.loads(run("describe", xwines, "--json"))
    assert (figures["users"], figures["items"], figures["interactions"]) == (10_561, 1_007, 150_000)
    assert figures["media"]["image"]["items"] == pytest.approx(0.099, abs=1e-3)
    assert figures["media"]["image"]["interactions"] == pytest.approx(0.045, abs=1e-3)
    assert (figures["history_length"]["p50"], figures["history_length"]["p100"]) == (12, 67)


@pytest.mark.slow
def test_a_simulation_accepts_an_imported_folder_as_it_is(run, tmp_path: Path) -> None:
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    rows = [f"{user + 1}\t{(user + 3 * place) % 16 + 1}\t4\t{place + 1}" for user in range(120) for place in range(6)]
    (folder / "u.data").write_text("\n".join(rows) + "\n")
    flags = [["1" if place == item % 19 else "0" for place in range(19)] for item in range(16)]
    items = [f"{item + 1}|Film {item}|||u|{'|'.join(flags[item])}" for item in range(16)]
    (folder / "u.item").write_text("\n".join(items) + "\n")
    (folder / "u.user").write_text("".join(f"{user + 1}|30|{'MF'[user % 2]}|writer|1\n" for user in range(120)))
    out = tmp_path / "partner"
    run("import", folder, "--out", out, "--silo", "gender")
    script = (
        "import typer; from simulations.cli import register; "
        "app = typer.Typer(); app.callback()(lambda: None); register(app); app()"
    )
    words = ["simulate", "--data", out, "--out", tmp_path / "run", "--rounds", "1", "--delta", "1e-3"]
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert len(record["partners"]) == 2


def test_the_bounds_leave_out_what_active_users_have_beyond_them() -> None:
    shares = bounded_shares(np.array([40, 1, 30, 2, 10, 20, 5, 16]))
    assert shares["pairs"] == pytest.approx([0.0, 0.0, 1 - 30 / 36, 1 - 30 / 70])
    assert shares["popularity"] == pytest.approx([0.0, 0.0, 0.0, 1 - 40 / 70])
    assert shares["training"] == pytest.approx([0.0, 0.0, 0.0, 1 - 62 / 70])
    assert bounded_shares(np.zeros(8, dtype=np.int64)) == {"pairs": [], "popularity": [], "training": []}
