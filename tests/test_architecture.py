"""The import rules and the habits of the house, as tables that are read from the source itself.

A broken row prints file, line and why. The second half plants every kind of violation and checks that it is found.
"""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mmrec_model", "client", "server", "simulations", "benchmarks")
LONGEST_MODULE = 400
FORBIDDEN_NAMES = frozenset({"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"})


@dataclass(frozen=True, eq=False)
class Source:
    """One module: its dotted name, its path from the root, its text and its tree."""

    name: str
    path: str
    text: str
    tree: ast.Module


@dataclass(frozen=True)
class Import:
    """One import; `target` is the dotted module, with the imported name behind it where there is one."""

    target: str
    line: int
    runs_at_import: bool


@dataclass(frozen=True)
class Never:
    """`inside` imports none of `targets`, at any place of the file."""

    inside: str
    targets: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class OnlyIn:
    """`target` is imported by these modules (or modules of these packages) alone."""

    target: str
    modules: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class NeverReaches:
    """Importing any module of `inside` loads none of `targets`, not even through others."""

    inside: str
    targets: tuple[str, ...]
    why: str


MODEL_STACK = ("torch", "torchvision", "transformers", "flwr", "opacus")

RULES: tuple[Never | OnlyIn | NeverReaches, ...] = (
    Never("mmrec_model", ("flwr", "opacus"), "what every side agrees on depends on no transport and no trainer"),
    Never("mmrec_model", ("client", "server", "simulations", "benchmarks"), "the shared package stands alone"),
    Never("client", ("server", "simulations", "benchmarks"), "a partner installs no coordinator code"),
    Never("server", ("client", "simulations", "benchmarks"), "the coordinator installs no partner code"),
    Never("server", ("mmrec_model.data",), "'the server holds no user data' is a fact of the code"),
    Never("simulations", ("benchmarks",), "benchmarks measure and are not part of the product"),
    Never("mmrec_model.privacy", MODEL_STACK, "an auditor needs no ML stack"),
    Never(
        "mmrec_model.privacy",
        tuple(f"mmrec_model.{part}" for part in ("data", "encoders", "evaluation", "features", "model")),
        "an auditor needs no data and no model",
    ),
    Never("mmrec_model.data", MODEL_STACK, "checking a folder must not need an ML stack"),
    Never(
        "mmrec_model.data",
        tuple(f"mmrec_model.{part}" for part in ("encoders", "features", "model", "privacy")),
        "data knows nothing of what is made of it",
    ),
    Never("mmrec_model.evaluation", MODEL_STACK, "metrics are plain functions of arrays"),
    Never("mmrec_model.errors", ("mmrec_model",), "everyone imports errors, so errors imports no one"),
    OnlyIn("opacus", ("client.gradients",), "one place to replace when Opacus changes"),
    OnlyIn("dp_accounting", ("mmrec_model.privacy.accounting",), "one place where epsilon is computed"),
    OnlyIn(
        "flwr",
        (
            "client.app",
            "client.launcher",  # stands in for Flower's own program, so that no code of a bundle runs
            "client.messages",
            "server.app",
            "server.exchange",
            "server.messages",
            "server.releases",
            "server.strategy",
            "server.submission",  # the digest that partners allow is of the bytes that Flower builds
            "simulations.flower_door",
            "simulations.loopback",
        ),
        "Flower is an edge of the system, not its language",
    ),
    OnlyIn("simulations", ("simulations", "benchmarks"), "a simulated partner is a real site: nothing may know of it"),
    NeverReaches("mmrec_model.privacy", MODEL_STACK, "an auditor needs no ML stack, not even through others"),
    NeverReaches("mmrec_model.data", MODEL_STACK, "checking a folder must not need an ML stack, even through others"),
    NeverReaches(
        "mmrec_model.pretraining",
        tuple(f"mmrec_model.data.{part}" for part in ("dataset", "interactions", "histories", "users")),
        "pretraining costs no epsilon because no user's data is read",
    ),
    NeverReaches("mmrec_model.cli", MODEL_STACK, "`mmrec --help` answers in under a second"),
    NeverReaches("server", ("mmrec_model.data",), "'the server holds no user data', not even through others"),
)


def read_sources(root: Path) -> dict[str, Source]:
    """All modules of the packages under `root`, by dotted name."""
    sources = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text(encoding="utf-8")
            sources[name] = Source(name, path.relative_to(root).as_posix(), text, ast.parse(text))
    return sources


def lies_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@functools.cache
def imports_of(source: Source) -> list[Import]:
    """Every import statement and every `import_module("literal")`; nested ones do not run at import."""
    return list(_imports_below(source.tree, source, runs=True))


def _imports_below(node: ast.AST, source: Source, *, runs: bool) -> Iterator[Import]:
    for target in _imported_by(node, source):
        yield Import(target, getattr(node, "lineno", 0), runs)
    only_types = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else []
    runs = runs and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _imports_below(child, source, runs=runs and child not in only_types)


def _imported_by(node: ast.AST, source: Source) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{_absolute(source, node)}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and _called(node) in {"import_module", "__import__"}:
        literal = node.args[0]
        return [literal.value] if isinstance(literal, ast.Constant) and isinstance(literal.value, str) else []
    return []


def _absolute(source: Source, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = source.name if source.path.endswith("__init__.py") else source.name.rpartition(".")[0]
    stem = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*stem, *([node.module] if node.module else [])])


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def broken(rule: Never | OnlyIn | NeverReaches, sources: dict[str, Source]) -> list[str]:
    """Every breach of `rule`, as `file:line imports target: why`."""
    if isinstance(rule, NeverReaches):
        return list(_breaches_through_others(rule, sources))
    breaches = []
    for source in sources.values():
        for entry in imports_of(source):
            if isinstance(rule, Never):
                bad = lies_in(source.name, rule.inside) and any(lies_in(entry.target, name) for name in rule.targets)
            else:
                here = any(lies_in(source.name, module) for module in rule.modules)
                bad = lies_in(entry.target, rule.target) and not here
            if bad:
                breaches.append(f"{source.path}:{entry.line} imports {entry.target}: {rule.why}")
    return breaches


def graph_of(sources: dict[str, Source], *, with_parents: bool) -> dict[str, set[str]]:
    """Module to the modules that importing it loads directly; names outside the packages stay as they are written."""
    graph: dict[str, set[str]] = {}
    for source in sources.values():
        targets = {_known(entry.target, sources) for entry in imports_of(source) if entry.runs_at_import}
        if with_parents:
            targets |= {parent for name in [*targets, source.name] for parent in _parents(name) if parent in sources}
        graph[source.name] = targets - {source.name}
    return graph


def _known(target: str, sources: dict[str, Source]) -> str:
    return next((name for name in (target, target.rpartition(".")[0]) if name in sources), target)


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


def _breaches_through_others(rule: NeverReaches, sources: dict[str, Source]) -> Iterator[str]:
    graph = graph_of(sources, with_parents=True)
    for start in (name for name in sources if lies_in(name, rule.inside)):
        came_from: dict[str, str] = {start: ""}
        queue = [start]
        while queue:
            here = queue.pop(0)
            for target in sorted(graph.get(here, ())):
                if target not in came_from:
                    came_from[target] = here
                    queue.append(target)
        for target in sorted(came_from):
            if any(lies_in(target, name) for name in rule.targets):
                path = [target]
                while came_from[path[-1]]:
                    path.append(came_from[path[-1]])
                yield f"{sources[start].path}: {' -> '.join(reversed(path))}: {rule.why}"
                break


def cycle_in(sources: dict[str, Source]) -> list[str]:
    """The modules of one import cycle, in order, or nothing."""
    graph = graph_of(sources, with_parents=False)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def _asserts(node: ast.AST, _source: Source) -> str:
    return "an assert vanishes under -O: raise a typed error" if isinstance(node, ast.Assert) else ""


def _prints(node: ast.AST, source: Source) -> str:
    printing = isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    return "print: return a value, or use the console" if printing and not lies_in(source.name, "benchmarks") else ""


def _unpickles(node: ast.AST, _source: Source) -> str:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
        if {name.partition(".")[0] for name in names} & {
            "pickle",
            "cloudpickle",
            "dill",
            "joblib",
            "shelve",
            "marshal",
        }:
            return "loading a pickle runs its author's code"
    if isinstance(node, ast.Attribute) and ast.unparse(node) in {"torch.load", "torch.save"}:
        return "torch files are pickles: use safetensors"
    if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
        return "allow_pickle runs the file's author's code"
    return ""


def _asks_for_simulation(node: ast.AST, source: Source) -> str:
    if not isinstance(node, ast.If | ast.IfExp) or lies_in(source.name, "simulations"):
        return ""
    words = {part.id for part in ast.walk(node.test) if isinstance(part, ast.Name)}
    words |= {part.attr for part in ast.walk(node.test) if isinstance(part, ast.Attribute)}
    return "a simulated partner is a real site" if words & {"simulation", "simulated", "is_simulation"} else ""


HABITS: tuple[Callable[[ast.AST, Source], str], ...] = (_asserts, _prints, _unpickles, _asks_for_simulation)


def bad_statements(habit: Callable[[ast.AST, Source], str], sources: dict[str, Source]) -> list[str]:
    """Every breach of one habit, as `file:line why`."""
    return [
        f"{source.path}:{getattr(node, 'lineno', getattr(getattr(node, 'value', None), 'lineno', 0))} {why}"
        for source in sources.values()
        for node in ast.walk(source.tree)
        if (why := habit(node, source))
    ]


def bad_files(sources: dict[str, Source]) -> list[str]:
    """Modules that are too long, say nothing of their promise, or carry a name that says nothing."""
    problems = []
    for source in sources.values():
        lines = source.text.count("\n")
        if lines > LONGEST_MODULE:
            problems.append(f"{source.path}:{lines} has more than {LONGEST_MODULE} lines: split it by promise")
        if FORBIDDEN_NAMES & set(source.name.split(".")):
            problems.append(f"{source.path}:1 is a drawer, not a noun: name it after what it holds")
        if source.text.strip() and ast.get_docstring(source.tree) is None:
            problems.append(f"{source.path}:1 does not open with its promise: write a module docstring")
    return problems


@pytest.fixture(scope="module")
def sources() -> dict[str, Source]:
    return read_sources(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{type(rule).__name__}-{getattr(rule, 'inside', rule.why)}")
def test_the_import_rules_hold(rule: Never | OnlyIn | NeverReaches, sources: dict[str, Source]) -> None:
    assert not (breaches := broken(rule, sources)), "\n".join(breaches)


def test_modules_do_not_import_each_other_in_a_circle(sources: dict[str, Source]) -> None:
    assert not (cycle := cycle_in(sources)), " -> ".join(cycle)


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.__name__.strip("_"))
def test_the_habits_hold(habit: Callable[[ast.AST, Source], str], sources: dict[str, Source]) -> None:
    assert not (breaches := bad_statements(habit, sources)), "\n".join(breaches)


def test_files_are_short_named_and_introduced(sources: dict[str, Source]) -> None:
    assert not (problems := bad_files(sources)), "\n".join(problems)


@pytest.mark.parametrize("rule", [rule for rule in RULES if not isinstance(rule, OnlyIn)], ids=lambda rule: rule.why)
def test_every_rule_speaks_of_modules_that_exist(rule: Never | NeverReaches, sources: dict[str, Source]) -> None:
    assert any(lies_in(name, rule.inside) for name in sources)


def plant(root: Path, files: dict[str, str]) -> dict[str, Source]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""Promise."""\n{text}\n')
    return read_sources(root)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("mmrec_model/a.py", "import flwr"),
        ("mmrec_model/a.py", "from flwr.app import Message"),
        ("mmrec_model/a.py", "def late():\n    from opacus import layers"),
        ("mmrec_model/a.py", "import importlib\nimportlib.import_module('flwr.app')"),
        ("mmrec_model/a.py", "import client.site"),
        ("mmrec_model/privacy/a.py", "from ..model import fusion"),
        ("mmrec_model/privacy/a.py", "import torch.nn"),
        ("mmrec_model/data/a.py", "from mmrec_model import privacy"),
        ("mmrec_model/evaluation/a.py", "import torch"),
        ("mmrec_model/errors.py", "from mmrec_model import config"),
        ("client/a.py", "from server import admission"),
        ("server/a.py", "from client.site import Site"),
        ("server/a.py", "from mmrec_model import data"),
        ("server/a.py", "from mmrec_model.data.schema import EVENTS"),
        ("server/a.py", "import simulations"),
        ("client/training.py", "import opacus"),
        ("mmrec_model/privacy/replay.py", "from dp_accounting import pld"),
        ("client/site.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from flwr.app import Message"),
        ("simulations/a.py", "import benchmarks.private_step"),
    ],
)
def test_a_planted_import_is_found_with_its_file_and_line(tmp_path: Path, path: str, code: str) -> None:
    sources = plant(tmp_path, {path: code})
    breaches = [breach for rule in RULES for breach in broken(rule, sources)]
    last = 1 + len(code.splitlines())
    assert any(breach.startswith(f"{path}:{last} imports ") for breach in breaches), breaches


def test_allowed_imports_are_not_reported(tmp_path: Path) -> None:
    files = {
        "client/gradients/hooks.py": "import opacus",
        "client/app.py": "from flwr.app import Message\nfrom client.gradients import hooks",
        "server/strategy.py": "import flwr\nfrom mmrec_model.model import fusion",
        "mmrec_model/model/fusion.py": "import torch\nfrom mmrec_model.errors import ModelError",
        "mmrec_model/privacy/accounting.py": "import dp_accounting",
        "simulations/scenarios.py": "import client.app\nimport server.strategy",
    }
    sources = plant(tmp_path, files)
    assert [breach for rule in RULES for breach in broken(rule, sources)] == []


def test_what_is_reached_through_others_is_found_with_the_way(tmp_path: Path) -> None:
    files = {
        "mmrec_model/privacy/audit.py": "from mmrec_model import planning",
        "mmrec_model/planning.py": "from mmrec_model.model.fusion import Fusion",
        "mmrec_model/model/__init__.py": "import torch",
        "mmrec_model/model/fusion.py": "",
    }
    sources = plant(tmp_path, files)
    breaches = [breach for rule in RULES if isinstance(rule, NeverReaches) for breach in broken(rule, sources)]
    assert any(
        "mmrec_model.privacy.audit -> mmrec_model.planning" in breach and "-> torch" in breach for breach in breaches
    )


def test_what_is_imported_inside_a_function_is_not_reached(tmp_path: Path) -> None:
    files = {"mmrec_model/cli.py": "def run():\n    import torch"}
    sources = plant(tmp_path, files)
    assert [breach for rule in RULES if isinstance(rule, NeverReaches) for breach in broken(rule, sources)] == []


def test_a_planted_circle_is_found_and_a_late_import_breaks_it(tmp_path: Path) -> None:
    circle = {"server/a.py": "from server import b", "server/b.py": "import server.a"}
    assert {"server.a", "server.b"} <= set(cycle_in(plant(tmp_path, circle)))
    opened = plant(tmp_path, circle | {"server/b.py": "def late():\n    import server.a"})
    assert cycle_in(opened) == []


@pytest.mark.parametrize(
    ("habit", "code"),
    [
        (_asserts, "assert 1"),
        (_prints, "print('hello')"),
        (_unpickles, "import pickle"),
        (_unpickles, "from joblib import load"),
        (_unpickles, "state = torch.load('x')"),
        (_unpickles, "rows = np.load('x', allow_pickle=True)"),
        (_asks_for_simulation, "if config.simulation:\n    pass"),
    ],
)
def test_a_planted_bad_statement_is_found(tmp_path: Path, habit: Callable[[ast.AST, Source], str], code: str) -> None:
    assert bad_statements(habit, plant(tmp_path, {"client/a.py": code}))[0].startswith("client/a.py:2 ")


def test_good_statements_are_not_reported(tmp_path: Path) -> None:
    code = "rows = np.load('x', allow_pickle=False)\nif config.rounds:\n    console.print('hello')"
    sources = plant(tmp_path, {"client/a.py": code, "benchmarks/a.py": "print('{}')"})
    assert [breach for habit in HABITS for breach in bad_statements(habit, sources)] == []


def test_a_planted_bad_file_is_found(tmp_path: Path) -> None:
    files = {"client/utils.py": "", "server/long.py": "x = 1\n" * LONGEST_MODULE, "mmrec_model/base/a.py": ""}
    assert len(bad_files(plant(tmp_path, files))) == len(files)
    (tmp_path / "client" / "silent.py").write_text("x = 1\n")
    assert any("client/silent.py" in problem for problem in bad_files(read_sources(tmp_path)))
