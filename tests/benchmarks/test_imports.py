"""Imports inside benchmarks and docs/figures form no cycle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("benchmarks", "docs/figures")


def names(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(root: Path) -> dict[str, set[str]]:
    """The modules of the rooms under ``root``, each with those that it imports."""
    paths = [path for room in ROOMS for path in (root / room).rglob("*.py")]
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }
    graph = {}
    for module, path in modules.items():
        graph[module] = set()
        for name in names(path):
            # ``from package import thing``: the module ``package.thing``, or else ``package``.
            imported = name if name in modules else name.rpartition(".")[0]
            if imported in modules and imported != module:
                graph[module].add(imported)
    return graph


def test_imports_form_no_cycle():
    graph = imports(ROOT)
    assert {"benchmarks.cases", "docs.figures.tables"} <= graph.keys()
    assert "benchmarks.work" in graph["benchmarks.cases"]
    TopologicalSorter(graph).prepare()


def test_a_cycle_is_seen(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    for one, other in (("a", "b"), ("b", "c"), ("c", "a")):
        code = f"def f():\n    from benchmarks import {other}\n"
        (tmp_path / "benchmarks" / f"{one}.py").write_text(code)
    with pytest.raises(CycleError):
        TopologicalSorter(imports(tmp_path)).prepare()
