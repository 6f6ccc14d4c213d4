"""Stages: each turns settings and earlier folders into one folder, whole or not at all, and is skipped while fresh.

A stage writes into a scratch folder that is renamed when the stage has ended, so a kill at any point leaves either the
old folder or the new one. `stage.json` in the folder holds the key (a hash of the settings that matter, the code, and
the keys of the stages before it) and the size of each file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from export.config import ExportSettings
from export.errors import ExportError
from export.train.options import TRAINING

_RECORD = "stage.json"
_PATHS = ("data", "checkpoint")  # settings that name what lies on disk; a bundle may be called as a folder is
_TRAINED = "finetune"  # the stage that runs on --train-device


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the export: `module` has `run(job, out)`; `settings` are the fields that change what it writes."""

    name: str
    module: str
    settings: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


STAGES: tuple[Stage, ...] = (
    Stage("data", "export.data.collect", ("data", "checkpoint", "adopt", "on_error", "repeats", "seed", "max_tokens")),
    Stage(
        "finetune",
        "export.train.finetune",
        ("seed", "finetune_epochs", "dimensions", "max_history", "max_tokens", "protocol", "repeats", *TRAINING),
        ("data",),
    ),
    Stage(
        "distil",
        "export.train.distil",
        ("seed", "students", "distil_epochs", "static_epochs", "relations", "vocabulary", "has_small_ranker"),
        ("data", "finetune"),
    ),
    Stage(
        "onnx",
        "export.compress.trace",
        ("max_history", "max_tokens", "tensorrt", "gates"),
        ("data", "finetune", "distil"),
    ),
    Stage(
        "quantise",
        "export.compress.quantise",
        ("seed", "max_tokens", "dimensions", "int8_target", "allow_lossy", "tensorrt", "gates"),
        ("data", "finetune", "onnx"),
    ),
    Stage(
        "verify",
        "export.evaluate.verify",
        ("seed", "protocol", "repeats", "allow_lossy", "require_baselines", "quality_gates", "small_ranker"),
        ("data", "finetune", "distil", "onnx", "quantise"),
    ),
    Stage("package", "export.package.publish", ("name", "repeats", "gates"), ("verify",)),
)


@dataclass
class Job:
    """One run of the export: its settings, where stages live, and how progress is shown."""

    settings: ExportSettings
    console: Console = field(default_factory=lambda: Console(stderr=True))
    stages: tuple[Stage, ...] = STAGES
    outside: list[Path] = field(default_factory=list)

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
        columns = (TextColumn("  {task.description:<22}"), BarColumn(), MofNCompleteColumn())
        bar = Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self.console)
        with bar:
            task = bar.add_task(label, total=total)
            yield lambda: bar.advance(task)

    def key(self, stage: Stage) -> str:
        """Hash of everything that the stage's output follows from."""
        by_name = {s.name: s for s in self.stages}
        parts: dict[str, Any] = {
            "stage": stage.name,
            "code": _code_hash(stage.module),
            "settings": {name: _fingerprint(name, self._setting(name)) for name in stage.settings},
            "needs": [self.key(by_name[name]) for name in stage.needs],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _setting(self, name: str) -> object:
        source = self.settings if hasattr(self.settings, name) else self.settings.plan
        return getattr(source, name)

    def is_fresh(self, stage: Stage) -> bool:
        """Whether the stage's folder is whole and follows from the present settings and code."""
        folder = self.folder(stage.name)
        try:
            record = json.loads((folder / _RECORD).read_text())
            sizes = record["files"] | record["outside"]
            return record["key"] == self.key(stage) and all((folder / f).stat().st_size == n for f, n in sizes.items())
        except (OSError, ValueError, KeyError):
            return False


def run_all(job: Job) -> None:
    """Run every stage that is not fresh, in order."""
    with _lock(job):
        if any(stage.name == _TRAINED and not job.is_fresh(stage) for stage in job.stages):
            _check_device(job.settings)
        for number, stage in enumerate(job.stages, 1):
            if not job.is_fresh(stage):
                job.console.print(f"[bold]\\[{number}/{len(job.stages)}] {stage.name}[/bold]")
                _run(job, stage)


def run_one(job: Job, name: str) -> None:
    """Run one stage again, fresh or not; the stages that it needs must be fresh."""
    stage = next(s for s in job.stages if s.name == name)
    if name == _TRAINED:
        _check_device(job.settings)
    by_name = {s.name: s for s in job.stages}
    for need in stage.needs:
        if not job.is_fresh(by_name[need]):
            raise ExportError(
                f"stage {name} needs stage {need}, which is missing or stale: run python -m export {need}"
            )
    with _lock(job):
        job.console.print(f"[bold]{stage.name}[/bold]")
        _run(job, stage)


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


def _run(job: Job, stage: Stage) -> None:
    started = time.monotonic()
    scratch, target = job.root / f"{stage.name}.partial", job.folder(stage.name)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    job.outside.clear()
    try:
        importlib.import_module(stage.module).run(job, scratch)
        seconds = round(time.monotonic() - started, 1)
        record = {
            "key": job.key(stage),
            "seconds": seconds,
            "files": {str(p.relative_to(scratch)): p.stat().st_size for p in scratch.rglob("*") if p.is_file()},
            "outside": {os.path.relpath(p, target): p.stat().st_size for p in job.outside},
        }
        (scratch / _RECORD).write_text(json.dumps(record, indent=1))
        _replace(scratch, target)
    except Exception as error:
        if _is_disk_full(error):
            raise ExportError(
                f"disk full in stage {stage.name} under {job.root}: free some space and run again"
            ) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    job.console.print(f"  done in {seconds:.0f} s")


def _is_disk_full(error: Exception) -> bool:
    """Whether it says so: the libraries that write files wrap the system's error in their own."""
    return getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error)


def _replace(scratch: Path, target: Path) -> None:
    """Put `scratch` in the place of `target`; a folder cannot replace a full one, so the old one steps aside first."""
    old = target.with_suffix(".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    scratch.replace(target)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _lock(job: Job) -> Iterator[None]:
    job.root.mkdir(parents=True, exist_ok=True)
    with (job.root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            job.console.print(f"another export of {job.settings.name} is running: waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _code_hash(module: str) -> str:
    """Hash of the Python files in the module's room."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ExportError(f"stage module {module} is missing")
    digest = hashlib.sha256()
    for path in sorted(Path(spec.origin).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _fingerprint(name: str, value: object) -> object:
    """A setting as it enters the key: a path stands for what lies there, other words only for themselves."""
    if name in _PATHS and isinstance(value, str | Path) and Path(value).exists():
        paths = sorted(p for p in Path(value).rglob("*") if p.is_file())
        return [str(value), [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]]
    return str(value) if isinstance(value, Path) else value
