"""A replaced folder is completely the old or the new one wherever the process is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swiftrec.export.folders import recover, replace_folder
from tests.conftest import ROOT

_DIES = """
import os, sys
from pathlib import Path
from swiftrec.export.folders import replace_folder
left = [int(sys.argv[1])]
def dying(call):
    def count(*args, **named):
        if left[0] == 0:
            os._exit(9)
        left[0] -= 1
        return call(*args, **named)
    return count
for name in ("rename", "replace", "rmdir", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
replace_folder(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def fill(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).write_text(text)
    return folder


def content(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in ("a", "b")}


@pytest.mark.parametrize("has_old", [True, False])
def test_one_whole_folder_remains_when_killed_before_any_system_call(tmp_path: Path, has_old: bool) -> None:
    for calls in range(20):
        new, target = fill(tmp_path / str(calls) / "new", "new"), tmp_path / str(calls) / "target"
        if has_old:
            fill(target, "old")
        command = [sys.executable, "-c", _DIES, str(calls), str(new), str(target)]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        recover(new, target)
        result = content(target) if target.exists() else set()
        assert result in ([{"old"}, {"new"}] if has_old else [set(), {"new"}]), calls
        assert result == {"new"} or content(new) == {"new"}, calls
        assert not (target.parent / "target.old").exists(), calls
        if code == 0:
            break
    assert code == 0
    assert calls >= (5 if has_old else 1)  # renames, and the deletion of two files and their folder
    assert [p.name for p in target.parent.iterdir()] == ["target"]


def test_old_folder_is_restored_when_interrupted_between_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, target, rename = fill(tmp_path / "new", "new"), fill(tmp_path / "target", "old"), Path.replace

    def interrupted(path: Path, to: Path) -> Path:
        if path == new:
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(new, target)
    assert content(target) == {"old"}


def test_old_folder_is_restored_when_the_new_one_is_missing(tmp_path: Path) -> None:
    fill(tmp_path / "target.old", "old")
    recover(tmp_path / "new", tmp_path / "target")
    assert content(tmp_path / "target") == {"old"}


def test_leftover_of_a_replaced_folder_is_deleted(tmp_path: Path) -> None:
    fill(tmp_path / "target.old", "old")
    (tmp_path / "target.old" / "a").unlink()  # the deletion was cut off
    fill(tmp_path / "target", "new")
    recover(tmp_path / "new", tmp_path / "target")
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert content(tmp_path / "target") == {"new"}
