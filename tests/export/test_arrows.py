"""Which folder of export/ may import which: stages on top, then what they call, models, data, and the records below."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

LAYERS = (
    {"__main__", "seeds", "planted", "promises"},
    {"stages"},
    {"train", "compress", "evaluate", "report", "blend"},
    {"models"},
    {"job", "config", "training_settings"},
    {"checkpoints", "data"},
    {"schema"},
    {
        "arrays",
        "gates",
        "errors",
        "fetch",
        "fingerprint",
        "folders",
        "ids",
        "literals",
        "progress",
        "strict_json",
        "threads",
    },
)
"""From top to bottom; a folder or file imports from its own layer and those below it."""

_FOUNDATION = {"arrays", "errors", "fetch", "ids", "literals", "strict_json"}
STANDALONE = {"data": {"data", *_FOUNDATION}, "checkpoints": {"checkpoints", *_FOUNDATION}}
"""What the folders that read user files may import of export."""

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(file, module): an import that points upwards, and why."""


def imported_rooms(source: str) -> Iterator[str]:
    """Every module of export that a source file imports, wherever the import is."""
    prefix = "swiftrec.export."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix(prefix) for alias in node.names if alias.name.startswith(prefix))
        elif isinstance(node, ast.ImportFrom) and node.module == "swiftrec.export":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(prefix):
            yield node.module.removeprefix(prefix)


def layer_of(module: str) -> int:
    """Number of the layer from the top.

    Raises:
        ValueError: the folder or file is in no layer.
    """
    room = module.partition(".")[0]
    for number, rooms in enumerate(LAYERS):
        if room in rooms:
            return number
    raise ValueError(f"export/{room} is in no layer of {__name__}")


def upward(file: str, source: str) -> list[str]:
    """The imports of a file of export/ that point to a higher layer."""
    own = layer_of(file.removesuffix(".py").replace("/", "."))
    return [module for module in imported_rooms(source) if layer_of(module) < own and (file, module) not in EXCEPTIONS]


def beyond_foundation(folder: str, source: str) -> set[str]:
    """Parts of export that a file of a standalone folder imports although it must not."""
    return {module.partition(".")[0] for module in imported_rooms(source)} - STANDALONE[folder]


def test_export_imports_only_downwards() -> None:
    wrong = {}
    for path in sorted((ROOT / "export").rglob("*.py")):
        file = str(path.relative_to(ROOT / "export"))
        if file != "__init__.py" and (modules := upward(file, path.read_text())):
            wrong[file] = modules
    assert wrong == {}


def test_every_exception_is_still_needed() -> None:
    for file, module in EXCEPTIONS:
        assert module in imported_rooms((ROOT / "export" / file).read_text())


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("evaluate/context.py", "from swiftrec.export.stages.blend import load_retrieval"),
        ("models/teacher.py", "from swiftrec.export.train import losses"),
        ("data/split.py", "import swiftrec.export.models.ranker"),
        ("schema/quality.py", "from swiftrec.export.evaluate.metrics import rank"),
        ("gates.py", "from swiftrec.export import config"),
    ],
)
def test_import_that_points_upwards_is_detected(file: str, line: str) -> None:
    assert upward(file, f"def f():\n    {line}\n")


@pytest.mark.parametrize("folder", STANDALONE)
def test_data_and_checkpoints_import_no_later_part_of_export(folder: str) -> None:
    files = sorted((ROOT / "export" / folder).glob("*.py"))
    assert len(files) > 5
    assert {file.name: names for file in files if (names := beyond_foundation(folder, file.read_text()))} == {}


@pytest.mark.parametrize("part", ["models.encoder", "evaluate.metrics", "stages.runner", "checkpoints.head", "config"])
def test_import_of_a_later_part_is_detected(part: str) -> None:
    assert beyond_foundation("data", f"from swiftrec.export.{part} import x\n") == {part.partition(".")[0]}
