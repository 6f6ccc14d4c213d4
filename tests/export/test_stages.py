"""Stages: an edited module makes those stale that import it; kills, full disks and edits leave complete stages."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from rich.console import Console

from swiftrec.export import fingerprint
from swiftrec.export.config import ExportSettings
from swiftrec.export.errors import ExportError, FetchError
from swiftrec.export.fetch import Wheel, fetch
from swiftrec.export.job import Job
from swiftrec.export.stages.order import EVALUATION, STAGES, Stage
from swiftrec.export.stages.runner import is_fresh, run_all, run_one
from tests.conftest import ROOT
from tests.export.steps import STAGES as STEPS

_BY_NAME = {stage.name: stage for stage in (*STAGES, EVALUATION)}


def modules(name: str) -> set[str]:
    """The modules in the key of the stage of that name."""
    return set(fingerprint._imported(_BY_NAME[name].module))


@pytest.mark.parametrize(
    ("stage", "module"),
    [
        ("data", "swiftrec.server.models.tokenizer"),
        ("data", "swiftrec.export.checkpoints.weights"),
        ("finetune", "swiftrec.export.train.losses"),
        ("finetune", "swiftrec.export.models.ranker"),  # imported by a module that the stage imports
        ("finetune", "swiftrec.export.evaluate.metrics"),
        ("blend", "swiftrec.server.catalogue.blend"),
        ("blend", "swiftrec.server.catalogue.sparse"),
        ("distil", "swiftrec.export.train.fit"),
        ("onnx", "swiftrec.server.models.session"),
        ("quantise", "swiftrec.export.compress.int8"),
        ("verify", "swiftrec.server.catalogue.words"),
        ("verify", "swiftrec.server.parts"),
        ("final", "swiftrec.export.train.refit"),
        ("package", "swiftrec.export.report.render"),
        ("teacher", "swiftrec.export.evaluate.comparisons"),
    ],
)
def test_key_of_a_stage_covers_the_code_it_runs(stage: str, module: str) -> None:
    assert module in modules(stage)


@pytest.mark.parametrize("name", list(_BY_NAME))
def test_key_excludes_code_without_effect_on_the_results(name: str) -> None:
    """Neither the server's pipeline and API, nor progress, settings, tests or other commands."""
    others = ("front", "worker", "pipeline", "batching", "telemetry", "tuning")
    assert not [module for module in modules(name) if module.startswith(tuple(f"swiftrec.server.{o}" for o in others))]
    assert not modules(name) & {"swiftrec.export.progress", "swiftrec.export.config", "swiftrec.export.__main__"}
    assert _BY_NAME[name].module in modules(name)


def test_every_module_without_effect_exists() -> None:
    folder = fingerprint._package_folder()
    for name in fingerprint.WITHOUT_EFFECT:
        path = folder.joinpath(*name.split(".")[1:])
        assert path.is_dir() or path.with_suffix(".py").exists(), name


def test_module_that_is_missing_is_named() -> None:
    with pytest.raises(ExportError, match=r"stage module tests\.export\.no_such is missing"):
        fingerprint.of_code("tests.export.no_such")


_STAGE = """
from pathlib import Path

def run(job, out):
    from {package}.scoring import SCORE  # inside a function
    with (job.settings.artifacts / "runs").open("a") as file:
        file.write("run\\n")
    (out / "score").write_text(str(SCORE))
"""


@pytest.mark.parametrize(
    ("file", "is_stale"),
    [
        ("stage.py", True),
        ("scoring.py", True),
        ("weights.py", True),  # imported by scoring
        ("page.md.jinja", True),
        ("pipeline.py", False),  # imported by scoring, without effect
        ("other.py", False),  # imported by no module of the stage
    ],
)
def test_stage_is_stale_when_a_module_that_it_imports_is_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, *, is_stale: bool
) -> None:
    name = f"keyed_{file.partition('.')[0]}"  # Python keeps imported modules
    package = tmp_path / "code" / name
    package.mkdir(parents=True)
    for path, text in {
        "__init__.py": "",
        "stage.py": _STAGE.replace("{package}", name),
        "scoring.py": f"from {name} import pipeline\nfrom {name}.weights import WEIGHT\nSCORE = WEIGHT\n",
        "weights.py": "WEIGHT = 1\n",
        "pipeline.py": "",
        "other.py": "",
        "page.md.jinja": "",
    }.items():
        (package / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setattr(fingerprint, "PACKAGE", name)
    monkeypatch.setattr(fingerprint, "WITHOUT_EFFECT", (f"{name}.pipeline",))
    job = Job(ExportSettings(artifacts=tmp_path, name="tiny", _cli_parse_args=[]))
    stages = (Stage("one", f"{name}.stage"),)
    run_all(job, stages)
    assert is_fresh(job, stages[0], stages)
    (package / file).write_text((package / file).read_text() + "# edited\n")
    assert is_fresh(job, stages[0], stages) != is_stale
    run_all(job, stages)
    assert (tmp_path / "runs").read_text().split() == ["run"] * (1 + is_stale)


def job(folder: Path, seed: int = 7) -> Job:
    return Job(ExportSettings(artifacts=folder, name="tiny", seed=seed, _cli_parse_args=[]))


def runs(folder: Path) -> list[str]:
    return (folder / "runs").read_text().split()


@pytest.mark.parametrize("stage", ["one", "two"])
def test_killed_export_resumes_after_the_last_complete_stage(tmp_path: Path, stage: str) -> None:
    environment = os.environ | {"FAULT": f"kill:{stage}", "ARTIFACTS": str(tmp_path)}
    command = [sys.executable, "-m", "tests.export.steps"]
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == -signal.SIGKILL
    root = tmp_path / ".stages" / "tiny"
    assert not (root / stage).exists()
    run_all(job(tmp_path), STEPS)
    assert runs(tmp_path) == (["one", "one", "two"] if stage == "one" else ["one", "two", "two"])
    assert sorted(p.name for p in root.iterdir()) == [".lock", "one", "two"]


def test_fresh_stages_are_skipped_and_stale_ones_run(tmp_path: Path) -> None:
    run_all(job(tmp_path), STEPS)
    run_all(job(tmp_path), STEPS)
    assert runs(tmp_path) == ["one", "two"]
    run_all(job(tmp_path, seed=8), STEPS)
    assert runs(tmp_path) == ["one", "two"] * 2
    (tmp_path / ".stages" / "tiny" / "two" / "whole").write_text("changed")
    run_all(job(tmp_path, seed=8), STEPS)
    assert runs(tmp_path) == ["one", "two", "one", "two", "two"]


def test_stages_stay_fresh_when_a_name_is_also_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    settings = ExportSettings(artifacts=tmp_path, name="docs", _cli_parse_args=[])
    stages = (*STEPS, Stage("package", "tests.export.steps", ("name",), ("two",)))
    for number in range(2):
        (tmp_path / "docs" / f"page-{number}").touch()
        run_all(Job(settings), stages)
    assert runs(tmp_path) == ["one", "two", "package"]


@pytest.mark.parametrize("given", ["data", "checkpoint"])
def test_key_follows_the_files_of_data_and_checkpoint(tmp_path: Path, given: str) -> None:
    (tmp_path / "given").mkdir()
    settings = ExportSettings(artifacts=tmp_path, name="tiny", _cli_parse_args=[f"--{given}", str(tmp_path / "given")])
    for number in range(2):
        (tmp_path / "given" / f"file-{number}").touch()
        run_all(Job(settings), (Stage("one", "tests.export.steps", (given,)),))
    assert runs(tmp_path) == ["one", "one"]


@pytest.mark.parametrize("given", ["data", "checkpoint"])
def test_stages_stay_fresh_when_files_are_touched(tmp_path: Path, given: str) -> None:
    file = tmp_path / "given" / "file"
    file.parent.mkdir()
    for number in range(2):
        file.write_text("the same")
        os.utime(file, (number, number))
        run_all(*reading(tmp_path, given))
    assert runs(tmp_path) == ["one"]


def test_stages_stay_fresh_when_an_output_is_touched(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "file").write_text("the same")
    for number in range(2):
        run_all(*reading(tmp_path, "data"))
        for file in reading(tmp_path, "data")[0].folder("one").iterdir():
            os.utime(file, (number, number))
    assert runs(tmp_path) == ["one"]


def test_changed_bytes_are_detected_when_size_and_time_are_equal(tmp_path: Path) -> None:
    file = tmp_path / "given" / "file"
    file.parent.mkdir()
    for text in ("bytes", "other"):
        file.write_text(text)
        os.utime(file, (1, 1))
        run_all(*reading(tmp_path, "data"))
    assert runs(tmp_path) == ["one", "one"]


def reading(folder: Path, given: str) -> tuple[Job, tuple[Stage, ...]]:
    """A job, and a stage that reads the folder `given` as its data or checkpoint."""
    settings = ExportSettings(artifacts=folder, name="tiny", _cli_parse_args=[f"--{given}", str(folder / "given")])
    return Job(settings), (Stage("one", "tests.export.steps", (given,)),)


@pytest.mark.parametrize("given", ["data", "checkpoint"])
def test_stage_whose_data_is_edited_while_it_runs_is_refused_and_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    file = tmp_path / "given" / "file"
    file.parent.mkdir()
    file.write_text("as it was")
    monkeypatch.setenv("FAULT", f"edit:one:{file}")
    with pytest.raises(ExportError, match=f"^--{given} {file.parent} changed while stage one ran.*run again$"):
        run_all(*reading(tmp_path, given))
    assert [p.name for p in (tmp_path / ".stages" / "tiny").iterdir()] == [".lock"]
    monkeypatch.delenv("FAULT")
    for _ in range(2):
        run_all(*reading(tmp_path, given))
    assert runs(tmp_path) == ["one", "one"]


def test_stage_whose_code_is_edited_while_it_runs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = iter(["before", "after"])
    monkeypatch.setattr("swiftrec.export.fingerprint.of_code", lambda _module: next(codes, "after"))
    with pytest.raises(ExportError, match=r"^its code changed while stage one ran"):
        run_one(job(tmp_path), "one", STEPS[:1])
    assert not (tmp_path / ".stages" / "tiny" / "one").exists()


def test_data_edited_during_a_later_stage_makes_that_stage_stale_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "given" / "file"
    file.parent.mkdir()
    file.write_text("as it was")
    tiny_job, stages = reading(tmp_path, "data")
    stages = (*stages, STEPS[1])
    monkeypatch.setenv("FAULT", f"edit:two:{file}")
    run_all(tiny_job, stages)
    monkeypatch.delenv("FAULT")
    assert [is_fresh(tiny_job, stage, stages) for stage in stages] == [False, False]
    run_all(tiny_job, stages)
    assert runs(tmp_path) == ["one", "two"] * 2


def test_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "file").write_text("text")

    def refuse(file: Path, *_state: int) -> str:
        if file.parent.name != "given":
            return "the hash of a module"
        raise PermissionError(errno.EACCES, "Permission denied", "given/file")

    monkeypatch.setattr("swiftrec.export.fingerprint._hash", refuse)
    with pytest.raises(ExportError, match=r"^given/file cannot be read \(Permission denied\): make it readable"):
        run_all(*reading(tmp_path, "data"))


@pytest.mark.parametrize("trained", ["finetune", "final"])
@pytest.mark.parametrize("has_cuda", [False, True])
def test_missing_device_is_refused_before_any_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_cuda: bool, trained: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_cuda)
    stages = (STEPS[0], Stage(trained, "tests.export.steps", (), ("one",)))
    settings = ExportSettings(artifacts=tmp_path, name="tiny", _cli_parse_args=["--train-device", "cuda"])
    if has_cuda:
        run_all(Job(settings), stages)
        assert runs(tmp_path) == ["one", trained]
        return
    with pytest.raises(ExportError, match="no CUDA device here: use --train-device cpu"):
        run_all(Job(settings), stages)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", ["full", "wrapped"])
def test_full_disk_is_reported_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("FAULT", f"{kind}:one")
    with pytest.raises(ExportError, match="disk full in stage one"):
        run_all(job(tmp_path), STEPS)
    assert [p.name for p in (tmp_path / ".stages" / "tiny").iterdir()] == [".lock"]


def test_single_stage_is_refused_when_earlier_ones_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs stage one"):
        run_one(job(tmp_path), "two", STEPS)


def test_missing_network_is_reported_with_the_file_to_download_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(FetchError, match=rf"put some-1.whl into {tmp_path}"):
        fetch(Wheel("no-such-package-of-ours==1", "some-1.whl", ""), tmp_path)


def test_wrong_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some-1.whl").write_bytes(b"something else")
    with pytest.raises(FetchError, match="SHA-256"):
        fetch(Wheel("some==1", "some-1.whl", "00"), tmp_path)


@pytest.mark.parametrize("given", ["data", "checkpoint"])
def test_artifacts_inside_the_data_folder_are_not_part_of_its_key(tmp_path: Path, given: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    settings = ExportSettings(artifacts=folder / "artifacts", name="tiny", _cli_parse_args=[f"--{given}", str(folder)])
    stages = (Stage("one", "tests.export.steps", (given,)),)
    for _ in range(2):
        run_all(Job(settings), stages)
    assert runs(folder / "artifacts") == ["one"]
    (folder / "file").touch()
    run_all(Job(settings), stages)
    assert runs(folder / "artifacts") == ["one", "one"]


def test_key_of_a_checkpoint_inside_the_artifacts_follows_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "earlier"
    folder.mkdir(parents=True)
    settings = ExportSettings(artifacts=tmp_path / "artifacts", _cli_parse_args=["--checkpoint", str(folder)])
    for number in range(2):
        (folder / f"file-{number}").touch()
        run_all(Job(settings), (Stage("one", "tests.export.steps", ("checkpoint",)),))
    assert runs(tmp_path / "artifacts") == ["one", "one"]


class Unlocking(Console):
    """A console that lets go of a lock when it has printed three lines."""

    def __init__(self, lock: IO[str]) -> None:
        super().__init__(file=io.StringIO())
        self.lock, self.lines = lock, list[str]()

    def print(self, *objects: object, **_: object) -> None:
        """Keep the line."""
        self.lines.append(str(objects[0]))
        if len(self.lines) == 3:
            fcntl.flock(self.lock, fcntl.LOCK_UN)


def test_export_waiting_for_another_repeats_its_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftrec.export.stages.runner.LINE_INTERVAL_S", 0.0)
    root = tmp_path / ".stages" / "tiny"
    root.mkdir(parents=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        console = Unlocking(lock)
        run_all(Job(ExportSettings(artifacts=tmp_path, name="tiny", _cli_parse_args=[]), console), STEPS)
    assert console.lines[:3] == ["another export of tiny is running: waiting for its end"] * 3
    assert runs(tmp_path) == ["one", "two"]
