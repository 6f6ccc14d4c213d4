"""Stages: each turns settings and earlier folders into one folder, whole or not at all, and is skipped while fresh.

A stage writes into a scratch folder that is renamed when the stage has ended, so a kill at any point leaves either the
old folder or the new one. `stage.json` in the folder holds the key (a hash of the settings that matter, the code, and
the keys of the stages that it was made from) and the size of each file. The key is taken before the stage runs; if
another one would be taken after it, something was edited meanwhile and the stage is refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rich.console import Console

from swiftrec.export import fingerprint
from swiftrec.export.config import ExportSettings
from swiftrec.export.errors import ExportError
from swiftrec.export.folders import recover, replace_folder
from swiftrec.export.progress import LINE_INTERVAL_S, Forecast, StageProgress, every, in_words
from swiftrec.export.stages.order import EVALUATION, STAGES, Stage

_RECORD = "stage.json"
_PATHS = ("data", "checkpoint")  # settings that name what lies on disk; a bundle may be called as a folder is
_TRAINED = ("finetune", "final")  # the stages that run on --train-device


@dataclass
class Job:
    """One run of the export: its settings, where stages live, and how progress is shown."""

    settings: ExportSettings
    console: Console = field(default_factory=lambda: Console(stderr=True))
    stages: tuple[Stage, ...] = STAGES
    outside: list[Path] = field(default_factory=list)
    running: StageProgress | None = None

    @cached_property
    def root(self) -> Path:
        """Folder of this bundle's stages."""
        return self.settings.artifacts / ".stages" / self.settings.name

    def folder(self, name: str) -> Path:
        """Folder of a stage, there or not."""
        return self.root / name

    def also_wrote(self, path: Path) -> None:
        """Name a file outside the stage's folder whose absence makes the stage stale."""
        self.outside.append(path)

    @contextlib.contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a bar with the remaining time; call what is yielded once for each of `total` steps."""
        if self.running is None:
            with self.show(StageProgress(self.console, label)), self.progress(label, total) as step:
                yield step
            return
        with self.running.bar(label, total) as step:
            yield step

    @contextlib.contextmanager
    def show(self, progress: StageProgress) -> Iterator[None]:
        """Show the progress of a stage, and in it the bars of `progress`, until the block ends."""
        self.running = progress
        try:
            with progress.show():
                yield
        finally:
            self.running = None

    def inputs(self, stage: Stage) -> dict[str, Any]:
        """Everything that the stage's output follows from, as it is now."""
        return {
            "stage": stage.name,
            "code": [fingerprint.of_code(stage.module), *map(fingerprint.of_module, stage.code)],
            "settings": {name: self._fingerprint(name) for name in stage.settings},
            "needs": {name: self.record(name).get("key") for name in stage.needs},
        }

    def key(self, stage: Stage) -> str:
        """Hash of everything that the stage's output follows from."""
        return _hash(self.inputs(stage))

    def record(self, name: str) -> dict[str, Any]:
        """What `stage.json` of a stage says: key, seconds, sizes of files; empty if there is none."""
        try:
            record = json.loads((self.folder(name) / _RECORD).read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def setting(self, name: str) -> object:
        """A field of the settings, or of the preset's numbers."""
        source = self.settings if hasattr(self.settings, name) else self.settings.plan
        return getattr(source, name)

    def _fingerprint(self, name: str) -> object:
        """A setting as it enters the key; a path stands for the content of its files, without what exports write."""
        value = self.setting(name)
        if name in _PATHS and isinstance(value, str | Path) and Path(value).exists():
            return [str(value), fingerprint.of_path(Path(value), without=self.settings.artifacts)]
        return str(value) if isinstance(value, Path) else value

    def is_fresh(self, stage: Stage) -> bool:
        """Whether the stage's folder is whole and follows from the present settings, data and code."""
        folder, record = self.folder(stage.name), self.record(stage.name)
        try:
            sizes = record["files"] | record["outside"]
            is_whole = all((folder / f).stat().st_size == n for f, n in sizes.items())
        except (OSError, KeyError, TypeError, AttributeError):
            return False
        before = (s for s in self.stages if s.name in stage.needs)
        return is_whole and record.get("key") == self.key(stage) and all(self.is_fresh(s) for s in before)


def teacher_job(job: Job) -> Job:
    """The same job with the stages up to the teacher and its evaluation."""
    return Job(job.settings, job.console, (*(s for s in STAGES if s.name in EVALUATION.needs), EVALUATION))


def run_all(job: Job) -> None:
    """Run every stage that is not fresh, in order."""
    with _lock(job):
        if any(stage.name in _TRAINED and not job.is_fresh(stage) for stage in job.stages):
            _check_device(job.settings)
        stale = [stage.name for stage in job.stages if not job.is_fresh(stage)]
        for number, stage in enumerate(job.stages, 1):
            if not job.is_fresh(stage):
                job.console.print(f"[bold]\\[{number}/{len(job.stages)}] {stage.name}[/bold]")
                ahead = [s.name for s in job.stages[number:] if s.name in stale]
                _run(job, stage, _progress(job, stage, number, ahead))


def run_one(job: Job, name: str) -> None:
    """Run one stage again, fresh or not; the stages that it needs must be fresh."""
    stage = next(s for s in job.stages if s.name == name)
    if name in _TRAINED:
        _check_device(job.settings)
    by_name = {s.name: s for s in job.stages}
    with _lock(job):
        for need in stage.needs:
            if not job.is_fresh(by_name[need]):
                raise ExportError(
                    f"stage {name} needs stage {need}, which is missing or stale: run swiftrec export {need}"
                )
        job.console.print(f"[bold]{stage.name}[/bold]")
        _run(job, stage, _progress(job, stage, 0, []))


def _progress(job: Job, stage: Stage, number: int, ahead: Sequence[str]) -> StageProgress:
    """The stage's progress, with the times of the stages as they were recorded."""
    seconds = {s.name: float(job.record(s.name).get("seconds", 0)) for s in job.stages}
    known = Forecast({name: s for name, s in seconds.items() if s})
    return StageProgress(job.console, stage.name, number, len(job.stages), ahead, known)


def _check_device(settings: ExportSettings) -> None:
    """Refuse a device that is not there before minutes are spent on the stages before it is used."""
    if settings.train_device == "cpu":
        return
    import torch  # seconds to import: only who wants a GPU waits

    if not torch.cuda.is_available():
        raise ExportError(
            "--train-device cuda: PyTorch finds no CUDA device here: use --train-device cpu, or a machine with an "
            "NVIDIA GPU, its driver and a PyTorch built for CUDA"
        )


def _run(job: Job, stage: Stage, progress: StageProgress) -> None:
    started = time.monotonic()
    scratch, target = _scratch(job, stage), job.folder(stage.name)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    job.outside.clear()
    inputs = job.inputs(stage)
    try:
        with job.show(progress):
            importlib.import_module(stage.module).run(job, scratch)
        _require_same(job, stage, inputs, job.inputs(stage))
        seconds = time.monotonic() - started
        record = {
            "key": _hash(inputs),
            "seconds": round(seconds, 1),
            "files": {str(p.relative_to(scratch)): p.stat().st_size for p in scratch.rglob("*") if p.is_file()},
            "outside": {os.path.relpath(p, target): p.stat().st_size for p in job.outside},
        }
        (scratch / _RECORD).write_text(json.dumps(record, indent=1))
        replace_folder(scratch, target)
    except Exception as error:
        if _is_disk_full(error):
            raise ExportError(
                f"disk full in stage {stage.name} under {job.root}: free some space and run again"
            ) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    job.console.print(f"  done in {in_words(seconds)}", highlight=False)


def _scratch(job: Job, stage: Stage) -> Path:
    return job.root / f"{stage.name}.partial"


def _require_same(job: Job, stage: Stage, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse a stage whose inputs were edited while it ran: nobody knows which of them it read.

    Raises:
        ExportError: names what changed.
    """
    if before == after:
        return
    paths = [name for name in stage.settings if before["settings"][name] != after["settings"][name]]
    changed = " and ".join(f"--{name} {job.setting(name)}" for name in paths) or (
        "its code" if before["code"] != after["code"] else "a stage before it"
    )
    raise ExportError(f"{changed} changed while stage {stage.name} ran, so its result is dropped: run again")


def _is_disk_full(error: Exception) -> bool:
    """Whether it says so: the libraries that write files wrap the system's error in their own."""
    return getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error)


@contextlib.contextmanager
def _lock(job: Job) -> Iterator[None]:
    job.root.mkdir(parents=True, exist_ok=True)
    with (job.root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say = partial(job.console.print, f"another export of {job.settings.name} is running: waiting for its end")
            say()
            with every(LINE_INTERVAL_S, say):
                fcntl.flock(file, fcntl.LOCK_EX)
        for stage in job.stages:
            recover(_scratch(job, stage), job.folder(stage.name))
        yield


def _hash(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
