"""A public class or type has one meaning: no two modules define one with the same name."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT

_PACKAGES = ("server", "export", "benchmarks", "swiftrec")
_GENERATED = ROOT / "server/pb"
_ALLOWED: frozenset[str] = frozenset()


def modules() -> list[Path]:
    """The Python files of the packages, without generated ones."""
    files = [file for package in _PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return [file for file in files if _GENERATED not in file.parents]


def defined(source: str) -> set[str]:
    """Public classes of a module, and its types: what it assigns to a name in camel case."""
    names = set()
    for node in ast.parse(source).body:
        match node:
            case ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names |= {name} if name[:1].isupper() and not name.isupper() else set()
    return {name for name in names if not name.startswith("_")}


def repeated(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Name -> the modules that define it, if there are several."""
    owners: dict[str, list[str]] = {}
    for module, source in sources.items():
        for name in defined(source):
            owners.setdefault(name, []).append(module)
    return {name: files for name, files in sorted(owners.items()) if len(files) > 1}


def read(files: Iterable[Path]) -> dict[str, str]:
    """Path from the root -> the text of the file."""
    return {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}


def test_every_public_class_and_type_is_defined_once() -> None:
    names = repeated(read(modules()))
    assert {name: files for name, files in names.items() if name not in _ALLOWED} == {}


def test_every_exception_is_needed() -> None:
    assert set(repeated(read(modules()))) >= _ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "class Row:\n    pass",
        "Row = NDArray[np.float32]",
        "Row: TypeAlias = 'tuple[int, str]'",
        "Row = Mapping[str, Any]",
        'Row = TypeVar("Row")',
    ],
)
def test_name_that_is_defined_twice_is_detected(line: str) -> None:
    sources = {
        "server/one.py": line,
        "export/two.py": "class Row:\n    pass",
        "export/three.py": "class Other:\n    pass",
    }
    assert repeated(sources) == {"Row": ["server/one.py", "export/two.py"]}


@pytest.mark.parametrize("line", ["ROWS = 3", "_Row = list[int]", "rows = []", "def Row():\n    pass"])
def test_constant_or_private_name_may_be_used_again(line: str) -> None:
    assert repeated({"one.py": line, "two.py": line}) == {}
