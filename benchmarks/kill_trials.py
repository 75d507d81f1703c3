"""Kill a partner's client process a thousand times and print what its budget and its replies suffered.

    python -m benchmarks.kill_trials --trials 1000 --json

Exit status 1 if a promise of docs/crashes.md was broken. `--keep FOLDER` keeps the sites that show it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from simulations.kill_trials import run_trials


def main() -> None:
    """Run the trials; the last line with `--json` is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        table = run_trials(chosen.trials, chosen.seed, chosen.keep or Path(temporary), _progress)
    sys.stderr.write("\n")
    print(table.as_text())
    for problem in table.problems:
        print(problem)
    if chosen.json:
        print(json.dumps(table.to_json()))
    sys.exit(1 if table.problems else 0)


def _progress(done: int, trials: int) -> None:
    sys.stderr.write(f"\r{done} of {trials} trials")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
