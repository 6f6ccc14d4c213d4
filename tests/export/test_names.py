"""Names inside export: a public class or array type is defined once, so that a name means one thing."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable

import pytest

from tests.conftest import ROOT


def defined(source: str) -> set[str]:
    """Public classes and types of arrays (`Name = NDArray[...]`, or a list of these) that a module defines."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = ast.unparse(node.value)
            names |= {node.targets[0].id} if value.startswith(("NDArray[", "list[NDArray[")) else set()
    return {name for name in names if not name.startswith("_")}


def repeated(sources: Iterable[str]) -> list[str]:
    """Names that several modules define."""
    counts = Counter(name for source in sources for name in defined(source))
    return sorted(name for name, count in counts.items() if count > 1)


def test_every_class_and_array_type_of_export_is_defined_once() -> None:
    assert repeated(path.read_text(encoding="utf-8") for path in (ROOT / "export").rglob("*.py")) == []


@pytest.mark.parametrize(
    "line", ["class Row:\n    pass", "Vectors = NDArray[np.float32]", "Histories = list[NDArray[i]]"]
)
def test_name_that_is_defined_twice_is_detected(line: str) -> None:
    name = line.replace("class ", "").partition(":")[0].partition(" ")[0]
    assert repeated([line, f"{line}\n", "class Other:\n    pass"]) == [name]
