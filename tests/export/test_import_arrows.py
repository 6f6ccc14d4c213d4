"""What the modules of `export/data` and `export/checkpoints` may import of export, so that they stand alone."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT
from tests.test_house import imports

_EXPORT = re.compile(r"swiftrec\.export\.(\w+)(?:\.|$)")
_FOUNDATION = {"errors", "fetch", "ids", "literals", "strict_json"}
_MAY_IMPORT = {"data": {"data", *_FOUNDATION}, "checkpoints": {"checkpoints", *_FOUNDATION}}


def forbidden(folder: str, source: str) -> set[str]:
    """Modules and folders of export that a file in `folder` imports although it must not."""
    names = {match[1] for name in imports(source) if (match := _EXPORT.match(name))}
    return names - _MAY_IMPORT[folder]


@pytest.mark.parametrize("folder", _MAY_IMPORT)
def test_data_and_checkpoints_import_no_later_part_of_export(folder: str) -> None:
    files = sorted((ROOT / "export" / folder).glob("*.py"))
    assert len(files) > 5
    assert {file.name: names for file in files if (names := forbidden(folder, file.read_text()))} == {}


@pytest.mark.parametrize("part", ["models.encoder", "evaluate.metrics", "stages.runner", "checkpoints.head", "config"])
def test_import_of_a_later_part_is_found(part: str) -> None:
    assert forbidden("data", f"from swiftrec.export.{part} import x\n") == {part.partition(".")[0]}
