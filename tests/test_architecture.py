"""The rooms, and which way imports may run; read with `ast`, so that nothing is imported.

spaces <- evaluators <- search (but cli) <- dashboards <- search.cli
"""

import ast
import graphlib
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("spaces", "evaluators", "search", "dashboards")

#: Room -> the rooms of ours it may import. `search.cli` is a room of its own.
MAY_IMPORT = {
    "spaces": {"spaces"},
    "evaluators": {"spaces", "evaluators"},
    "search": {"spaces", "evaluators", "search"},
    "dashboards": {"spaces", "search", "dashboards"},
    "search.cli": {"spaces", "evaluators", "search", "dashboards", "search.cli"},
}
#: Library -> the only places that may import it.
HOMES: dict[str, tuple[str, ...]] = {
    "torch": ("evaluators.backends", "evaluators.workloads"),
    "tensorflow": ("evaluators.backends.keras", "evaluators.workloads"),
    "tf_keras": ("evaluators.backends.keras", "evaluators.workloads"),
    "tensorflow_model_optimization": ("evaluators.backends.keras",),
    "ai_edge_litert": ("evaluators.artifacts.tflite",),
    "ray": ("search.engines.ray", "search.tune"),
    "dash": ("dashboards.app",),
    "flask": ("dashboards.app",),
    "waitress": ("dashboards.app",),
    "coremltools": ("evaluators.artifacts.mlpackage", "evaluators.backends.pytorch.coreml_export"),
    "onnx": ("evaluators.artifacts.onnx",),
    "onnxruntime": ("evaluators.artifacts.onnx",),
    "boto3": ("evaluators.artifacts.store",),
}
#: `spaces` holds values: no files, no clock.
FILES_AND_CLOCK = {"datetime", "glob", "io", "os", "pathlib", "shutil", "tempfile", "time"}


# Reading -----------------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, Path]:
    """Module -> file, of all four rooms."""
    found = (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    return {module_name(path): path for path in found}


@cache
def tree(module: str) -> ast.Module:
    path = sources()[module]
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(code: ast.Module, package: str) -> Iterator[tuple[str, int]]:
    """(module, line) of every import at any depth, also relative ones and `import_module("x")`."""
    for node in ast.walk(code):
        match node:
            case ast.Import():
                yield from ((alias.name, node.lineno) for alias in node.names)
            case ast.ImportFrom():
                above = package.split(".")
                above = above[: len(above) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    yield (full if full in sources() else base), node.lineno
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name, node.lineno


@cache
def imported(module: str) -> tuple[tuple[str, int], ...]:
    is_package = sources()[module].name == "__init__.py"
    package = module if is_package else module.rpartition(".")[0]
    return tuple(imports_of(tree(module), package))


def all_imports() -> Iterator[tuple[str, str, str]]:
    """(importing module, imported module, what to print)."""
    for module, path in sources().items():
        for name, line in imported(module):
            yield module, name, f"{path.relative_to(ROOT)}:{line} imports {name}"


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def room(module: str) -> str:
    return "search.cli" if is_within(module, "search.cli") else module.partition(".")[0]


def none_of(offenders: Iterable[str]) -> None:
    found = list(offenders)
    assert not found, "\n".join(found)


def public_modules() -> list[str]:
    return [m for m in sources() if not any(part.startswith("_") for part in m.split("."))]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import torch.nn as nn, os", ["torch.nn", "os"]),
        ("def f():\n    if x:\n        from ray import tune", ["ray"]),
        ("from spaces import policy, Policy", ["spaces.policy", "spaces"]),
        ("from . import policy", ["spaces.policy"]),
        ("from .policy import Policy", ["spaces.policy"]),
        ("importlib.import_module('dash'); import_module(name)", ["dash"]),
    ],
)
def test_every_way_to_import_is_seen(code: str, found: list[str]) -> None:
    assert [name for name, _ in imports_of(ast.parse(code), "spaces")] == found


# Rules -------------------------------------------------------------------------------------------


def test_imports_run_along_the_arrows() -> None:
    none_of(
        shown
        for module, name, shown in all_imports()
        if name.partition(".")[0] in ROOMS and room(name) not in MAY_IMPORT[room(module)]
    )


@pytest.mark.parametrize("library", sorted(HOMES))
def test_heavy_libraries_stay_in_their_homes(library: str) -> None:
    none_of(
        shown
        for module, name, shown in all_imports()
        if is_within(name, library) and not any(is_within(module, h) for h in HOMES[library])
    )


def test_spaces_needs_only_the_standard_library_and_numpy() -> None:
    allowed = ({*sys.stdlib_module_names, "numpy", "spaces"}) - FILES_AND_CLOCK
    none_of(
        shown
        for module, name, shown in all_imports()
        if room(module) == "spaces" and name.partition(".")[0] not in allowed
    )


def test_there_is_no_cycle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in sources()}
    for module, name, _ in all_imports():
        if name in sources() and name != module:
            graph[module].add(name)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_public_modules_say_what_they_are_for() -> None:
    none_of(module for module in public_modules() if not ast.get_docstring(tree(module)))


def sort_key(name: str) -> tuple[int, list[tuple[int, int, str]]]:
    """As ruff's RUF022 sorts: CONSTANTS, Classes, functions; numbers inside names by value."""
    kind = 0 if len(name) > 1 and name.isupper() else 1 if name[:1].isupper() else 2
    parts = re.findall(r"\d+|\D+", name)
    return kind, [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def test_public_names_are_sorted() -> None:
    unsorted = []
    for module in public_modules():
        for node in tree(module).body:
            if isinstance(node, ast.Assign) and "__all__" in map(ast.unparse, node.targets):
                names = ast.literal_eval(node.value)
                if names != sorted(set(names), key=sort_key):
                    unsorted.append(module)
    none_of(unsorted)
