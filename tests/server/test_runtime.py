"""A process that is pinned to one CPU imports ONNX Runtime with all that it could use, and is pinned again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swiftrec.server.models.runtime import every_cpu
from tests.conftest import ROOT

_FAKE = "import json, os, sys\nseen = sorted(os.sched_getaffinity(0))\n"
_TELL = "import json, os; print(json.dumps([onnxruntime.seen, sorted(os.sched_getaffinity(0))]))"


def imported(folder: Path, statement: str, cpus: set[int]) -> tuple[list[int], list[int]]:
    """The CPUs that a fake ONNX Runtime might use while it was imported, and those of the process after it."""
    (folder / "onnxruntime.py").write_text(_FAKE, encoding="utf-8")
    code = f"import os; os.sched_setaffinity(0, {cpus}); {statement}; {_TELL}"
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    during, after = json.loads(done.stdout)
    return during, after


@pytest.mark.parametrize("number", [1, 2])
def test_import_may_use_every_cpu_and_the_process_only_its_own_after_it(tmp_path: Path, number: int) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    own = set(allowed[:number])
    during, after = imported(tmp_path, "from server.models.runtime import onnxruntime", own)
    assert set(during) >= (set(allowed) if len(own) == 1 else own)
    assert set(after) == own


def test_import_does_without_where_it_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_pid: int, _cpus: object) -> None:
        raise PermissionError

    own = os.sched_getaffinity(0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    with every_cpu():
        pass
    monkeypatch.undo()
    assert os.sched_getaffinity(0) == own


def test_plain_import_has_the_one_cpu_only(tmp_path: Path) -> None:
    """What the way of ours is compared with."""
    own = {min(os.sched_getaffinity(0))}
    during, _ = imported(tmp_path, "import onnxruntime", own)
    assert set(during) == own


def test_server_and_peers_import_it_that_way() -> None:
    """Whoever comes first decides for the process: nothing that a server imports may be before it."""
    files = [*ROOT.glob("server/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    plain = [str(path.relative_to(ROOT)) for path in files if "\nimport onnxruntime" in path.read_text("utf-8")]
    assert plain == []
