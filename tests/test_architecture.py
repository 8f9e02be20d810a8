"""The direction of imports, kept true: see docs/architecture.md."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import coralx

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "coralx"
HEAVY = {"torch", "ray", "transformers", "peft", "datasets"}


def imported(path: Path, everywhere: bool) -> set[str]:
    """Modules that a file imports, at import time alone unless `everywhere`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if everywhere else tree.body
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def modules(folder: str) -> list[Path]:
    return sorted((SOURCE / folder).rglob("*.py"))


@pytest.mark.parametrize("path", modules("train"), ids=lambda p: p.name)
def test_training_knows_nothing_of_evolution(path: Path) -> None:
    assert not [n for n in imported(path, everywhere=True) if n.startswith("coralx.search")]


@pytest.mark.parametrize("path", modules("search"), ids=lambda p: p.name)
def test_search_is_pure(path: Path) -> None:
    allowed = {f"coralx.{n}" for n in ("records", "config", "errors", "objectives", "steps")}
    for name in imported(path, everywhere=True):
        root = name.split(".")[0]
        assert root not in HEAVY | {"os", "pathlib", "time", "datetime", "io", "random"}, name
        assert (
            root != "coralx"
            or name in allowed
            or name.startswith(("coralx.search", "coralx.settings"))
        ), name


def test_nothing_is_imported_by_what_it_imports() -> None:
    """Between the modules at the top, packages whole: `TopologicalSorter` refuses cycles."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        module = path.relative_to(SOURCE).with_suffix("").parts[0]
        names = imported(path, everywhere=True)
        used = {name.split(".")[1] for name in names if name.startswith("coralx.")}
        found.setdefault(module, set()).update(used - {module})
    assert list(TopologicalSorter(found).static_order())


def test_nothing_outside_training_imports_torch_at_import_time() -> None:
    code = (
        "import sys, pkgutil, importlib, coralx\n"
        "skip = ('coralx.train', 'coralx.executors', 'coralx.__main__')\n"
        "for m in pkgutil.walk_packages(coralx.__path__, 'coralx.'):\n"
        "    if not m.name.startswith(skip): importlib.import_module(m.name)\n"
        f"found = {HEAVY!r} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_public_names_are_there_and_no_others_to_a_type_checker() -> None:
    assert {name for name in coralx.__all__ if getattr(coralx, name)} <= set(dir(coralx))
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    seen = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert seen == ["__dir__"]  # __getattr__ would have any name


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "common", "manager", "helper", "helpers", "misc"}
    assert not [p for p in SOURCE.rglob("*.py") if p.stem in empty]


def test_the_map_names_every_module_and_none_that_is_not_there() -> None:
    """Modules of search, of train and at the top by their names, others in a line with their
    folder."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    there = [path.relative_to(SOURCE) for path in SOURCE.rglob("*.py")]

    def is_named(path: Path) -> bool:
        folder = f"`{path.parts[0]}/`" if path.parts[0] in ("search", "train") else ""
        if folder or len(path.parts) == 1:
            return f"`{path.name}`" in text and folder in text
        wanted = f"`{path.parts[0]}/`", f"`{path.name}`"
        return any(all(name in line for name in wanted) for line in text.splitlines())

    modules = [path for path in there if path.name not in ("__init__.py", "__main__.py")]
    assert [path for path in sorted(modules) if not is_named(path)] == []
    named = {Path(name).name for name in re.findall(r"`([\w/]+\.py)`", text)}
    known = {path.name for path in there}
    known |= {p.name for folder in ("tests", "scripts") for p in (ROOT / folder).rglob("*.py")}
    assert named - known == set()
