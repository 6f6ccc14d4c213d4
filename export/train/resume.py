"""Where a stage that was stopped goes on: tensors as safetensors, the rest as JSON, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from swiftrec.export.folders import recover, replace_folder
from swiftrec.export.stages.runner import Job

Facts = dict[str, Any]


class Resume:
    """A folder beside the stage that survives a kill; `key` says which settings, code and data it belongs to."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key

    def save(self, tensors: dict[str, Tensor], facts: Facts) -> None:
        """Put this in the place of what was saved before."""
        scratch = self._scratch
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            scratch / "tensors.safetensors",
        )
        (scratch / "facts.json").write_text(json.dumps({"key": self._key, "facts": facts}))
        replace_folder(scratch, self._folder)

    @property
    def _scratch(self) -> Path:
        return self._folder.with_name(f"{self._folder.name}.writing")

    def load(self) -> tuple[dict[str, Tensor], Facts] | None:
        """What was saved last; None if nothing was, or if it belongs to other settings, code or data."""
        recover(self._scratch, self._folder)
        try:
            record = json.loads((self._folder / "facts.json").read_text())
            if record["key"] != self._key:
                return None
            return load_file(self._folder / "tensors.safetensors"), record["facts"]
        except (OSError, ValueError, KeyError, SafetensorError):
            return None


def resume_of(job: Job, stage: str, name: str) -> Resume:
    """What is kept of the part `name` of a stage until that is whole."""
    return Resume(_folder(job, stage) / name, job.key(next(s for s in job.stages if s.name == stage)))


def forget(job: Job, stage: str) -> None:
    """Throw away what was kept: the stage is whole."""
    shutil.rmtree(_folder(job, stage), ignore_errors=True)


def _folder(job: Job, stage: str) -> Path:
    return job.folder(stage).with_name(f"{stage}.resume")


def cut(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under "prefix.", without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with "prefix." before their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
