"""Which server of a source tree is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from swiftrec.benchmarks.server_process import server_module
from tests.conftest import ROOT


@pytest.mark.parametrize("module", ["swiftrec.server", "server"])
def test_server_of_another_tree_is_run_by_its_module(tmp_path: Path, module: str) -> None:
    folder = tmp_path / module.replace(".", "/")
    folder.mkdir(parents=True)
    (folder / "__main__.py").touch()
    assert server_module(tmp_path) == module
    assert server_module(ROOT) == "swiftrec.server"


def test_tree_without_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="holds no server: give the folder of a checkout"):
        server_module(tmp_path)
