"""Imports in benchmarks/ point one way: tools -> load -> window, server_process -> statistics -> workload."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

_PACKAGE = "swiftrec.benchmarks."
# From the bottom to the top; a module imports only from layers below its own. Modules of one layer are in one line, and
# do not import each other; the modules of a folder may.
_LAYERS = (
    ("environment", "optional_deps", "bundle_id", "item_texts"),
    ("formatting", "workload", "prometheus"),
    ("statistics", "result_files", "recording"),
    ("responses", "hdr"),
    ("window", "connection", "selection"),
    ("client", "server_process"),
    ("record", "flood", "floor", "echo", "null_server"),
    ("load",),
    (),  # every other module and folder: the tools
    ("quality",),
    ("suite",),
    ("__main__",),
)
_TOOLS = _LAYERS.index(())
_RANK = {name: rank for rank, layer in enumerate(_LAYERS) for name in layer}
# `quality` installs its libraries as the peers are installed; scripts in other environments import few packages.
_FOLDER = ROOT / "benchmarks"


def modules(source: str) -> Iterator[str]:
    """The modules of benchmarks/ that a file imports, at the top of it or later."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix(_PACKAGE) for alias in node.names if alias.name.startswith(_PACKAGE))
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == _PACKAGE.rstrip("."):
                yield from (alias.name for alias in node.names)
            elif node.module.startswith(_PACKAGE):
                yield node.module.removeprefix(_PACKAGE)


def wrong_imports(file: Path, source: str) -> list[str]:
    """Modules that a file (relative to benchmarks/) must not import."""
    room = file.parts[0].removesuffix(".py")
    targets = [(module, module.partition(".")[0]) for module in modules(source)]
    return [
        module for module, target in targets if target != room and _RANK.get(target, _TOOLS) >= _RANK.get(room, _TOOLS)
    ]


def files() -> list[Path]:
    return [path.relative_to(_FOLDER) for path in _FOLDER.rglob("*.py") if path.name != "__init__.py"]


def test_imports_of_benchmarks_follow_the_arrows() -> None:
    wrong = {str(file): result for file in files() if (result := wrong_imports(file, (_FOLDER / file).read_text()))}
    assert wrong == {}


def test_every_layer_names_existing_modules() -> None:
    assert set(_RANK) <= {file.parts[0].removesuffix(".py") for file in files()}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("statistics.py", "from swiftrec.benchmarks.load import run_load"),
        ("item_texts.py", "from swiftrec.benchmarks.workload import make"),
        ("recording.py", "from swiftrec.benchmarks.record import proxy"),
        ("load.py", "from swiftrec.benchmarks import overload"),
        ("peers/measure.py", "import swiftrec.benchmarks.suite.rows"),
        ("overload.py", "from swiftrec.benchmarks.fair import row"),
        ("new_tool.py", "from swiftrec.benchmarks.fair import row"),
        ("load.py", "from swiftrec.benchmarks.new_tool import run"),
        ("environment.py", "def f():\n    from swiftrec.benchmarks.workload import make"),
    ],
)
def test_an_import_against_the_arrows_is_found(file: str, line: str) -> None:
    """Negative control."""
    assert len(wrong_imports(Path(file), line)) == 1


def test_nothing_but_tests_imports_benchmarks() -> None:
    for room in ("server", "export"):
        for path in (ROOT / room).rglob("*.py"):
            assert not list(modules(path.read_text())), path
