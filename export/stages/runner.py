"""Stages: each turns settings and earlier folders into one folder, completely or not at all, and is skipped if fresh.

A stage writes into a scratch folder that is renamed when the stage has ended, so a kill at any point leaves either the
old folder or the new one. `stage.json` in the folder holds the key (a hash of the settings that matter, the code, and
the keys of the stages that it was made from) and the size of each file. The key is computed before the stage runs
and again after it; if the two differ, something was edited meanwhile and the stage is refused.
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
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from swiftrec.export import fingerprint
from swiftrec.export.config import ExportSettings
from swiftrec.export.errors import ExportError
from swiftrec.export.folders import recover, replace_folder
from swiftrec.export.job import Job
from swiftrec.export.progress import LINE_INTERVAL_S, Forecast, StageProgress, every, in_words
from swiftrec.export.stages.order import STAGES, Stage

_RECORD = "stage.json"
_PATHS = ("data", "checkpoint")  # settings that name files; the name of a bundle may also be that of a folder
_TRAINED = ("finetune", "final")  # the stages that run on --train-device


def stage_inputs(job: Job, stage: Stage) -> dict[str, Any]:
    """Everything that the stage's output follows from, as it is now."""
    return {
        "stage": stage.name,
        "code": fingerprint.of_code(stage.module),
        "settings": {name: _fingerprint(job.settings, name) for name in stage.settings},
        "needs": {name: _read_record(job, name).get("key") for name in stage.needs},
    }


def stage_key(job: Job, stage: Stage) -> str:
    """Hash of everything that the stage's output follows from."""
    return _hash(stage_inputs(job, stage))


def is_fresh(job: Job, stage: Stage, stages: Sequence[Stage] = STAGES) -> bool:
    """Whether the stage's folder is complete and follows from the present settings, data and code.

    Args:
        job: the run.
        stage: one of `stages`.
        stages: all stages, among them those that `stage` needs.
    """
    folder, record = job.folder(stage.name), _read_record(job, stage.name)
    try:
        sizes = record["files"] | record["outside"]
        is_complete = all((folder / file).stat().st_size == size for file, size in sizes.items())
    except (OSError, KeyError, TypeError, AttributeError):
        return False
    needed = (each for each in stages if each.name in stage.needs)
    is_current = is_complete and record.get("key") == stage_key(job, stage)
    return is_current and all(is_fresh(job, each, stages) for each in needed)


def _read_record(job: Job, name: str) -> dict[str, Any]:
    """The stage's `stage.json`: key, seconds, sizes of files; empty if there is none."""
    try:
        record = json.loads((job.folder(name) / _RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _setting(settings: ExportSettings, name: str) -> object:
    """A field of the settings, or of the preset's numbers."""
    return getattr(settings if hasattr(settings, name) else settings.plan, name)


def _fingerprint(settings: ExportSettings, name: str) -> object:
    """A setting as it enters the key; a path stands for the content of its files, without those that exports write."""
    value = _setting(settings, name)
    if name in _PATHS and isinstance(value, str | Path) and Path(value).exists():
        return [str(value), fingerprint.of_path(Path(value), without=settings.artifacts)]
    return str(value) if isinstance(value, Path) else value


def run_all(job: Job, stages: Sequence[Stage] = STAGES) -> None:
    """Run every stage that is not fresh, in order."""
    with _lock(job, stages):
        stale = [stage.name for stage in stages if not is_fresh(job, stage, stages)]
        if any(name in _TRAINED for name in stale):
            _check_device(job.settings)
        for number, stage in enumerate(stages, 1):
            if not is_fresh(job, stage, stages):
                job.console.print(f"[bold]\\[{number}/{len(stages)}] {stage.name}[/bold]")
                ahead = [each.name for each in stages[number:] if each.name in stale]
                _run(job, stage, _progress(job, stage, stages, number, ahead))


def run_one(job: Job, name: str, stages: Sequence[Stage] = STAGES) -> None:
    """Run one stage again, fresh or not; the stages that it needs must be fresh."""
    by_name = {stage.name: stage for stage in stages}
    stage = by_name[name]
    if name in _TRAINED:
        _check_device(job.settings)
    with _lock(job, stages):
        for need in stage.needs:
            if not is_fresh(job, by_name[need], stages):
                raise ExportError(
                    f"stage {name} needs stage {need}, which is missing or stale: run swiftrec export {need}"
                )
        job.console.print(f"[bold]{stage.name}[/bold]")
        _run(job, stage, _progress(job, stage, stages, 0, []))


def _progress(job: Job, stage: Stage, stages: Sequence[Stage], number: int, ahead: Sequence[str]) -> StageProgress:
    """The stage's progress, with the recorded times of the stages."""
    seconds = {each.name: float(_read_record(job, each.name).get("seconds", 0)) for each in stages}
    shares = {each.name: each.typical_share for each in stages if each.typical_share}
    forecast = Forecast({name: duration for name, duration in seconds.items() if duration}, shares)
    return StageProgress(job.console, stage.name, number, len(stages), ahead, forecast)


def _check_device(settings: ExportSettings) -> None:
    """Refuse a device that is not there before minutes are spent on the stages before it is used."""
    if settings.train_device == "cpu":
        return
    import torch  # takes seconds to import

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
    inputs = stage_inputs(job, stage)
    try:
        with job.show(progress):
            importlib.import_module(stage.module).run(job, scratch)
        _require_same(job, stage, inputs, stage_inputs(job, stage))
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
    """Refuse a stage whose inputs were edited while it ran: which of them it read is unknown.

    Raises:
        ExportError: names what changed.
    """
    if before == after:
        return
    paths = [name for name in stage.settings if before["settings"][name] != after["settings"][name]]
    changed = " and ".join(f"--{name} {_setting(job.settings, name)}" for name in paths) or (
        "its code" if before["code"] != after["code"] else "a stage before it"
    )
    raise ExportError(f"{changed} changed while stage {stage.name} ran, so its result is dropped: run again")


def _is_disk_full(error: Exception) -> bool:
    """Whether the disk is full: libraries wrap the system's error in their own."""
    return getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error)


@contextlib.contextmanager
def _lock(job: Job, stages: Sequence[Stage]) -> Iterator[None]:
    job.root.mkdir(parents=True, exist_ok=True)
    with (job.root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say = partial(job.console.print, f"another export of {job.settings.name} is running: waiting for its end")
            say()
            with every(LINE_INTERVAL_S, say):
                fcntl.flock(file, fcntl.LOCK_EX)
        for stage in stages:
            recover(_scratch(job, stage), job.folder(stage.name))
        yield


def _hash(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
