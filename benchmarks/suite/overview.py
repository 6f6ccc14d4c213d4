"""The newest results of all tools, of one machine and one bundle; the reference of the documents is one of these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from swiftrec.benchmarks import result_files
from swiftrec.benchmarks.catalogue.result import CatalogueResult
from swiftrec.benchmarks.peers.results import PeersResult, incomplete
from swiftrec.benchmarks.selection import Selection, Stored, choose, partial, smoke
from swiftrec.benchmarks.suite.result import Result
from swiftrec.benchmarks.teacher import TeacherResult

_NOT_IN_REFERENCE: dict[str, Any] = {"run": {"points", "batch_sizes", "parts"}}  # no document shows them


class Overview(BaseModel):
    """A run, and the newest other results of the same machine and bundle."""

    model_config = ConfigDict(frozen=True)

    folders: dict[str, str] = Field(description="name of a result -> name of the folder that it is from")
    run: Result
    peers: PeersResult | None = None
    catalogue: CatalogueResult | None = None
    teacher: TeacherResult | None = None

    def as_reference(self) -> str:
        """The JSON that the documents are generated from.

        Raises:
            RuntimeError: the run is partial, invalid, incomplete, or a smoke run.
        """
        folder = self.folders["run"]
        if reason := not_full(self.run):
            raise RuntimeError(f"{folder} cannot be the reference ({reason}): run swiftrec bench to its end")
        if missing := [name for name in ("alone_p50_ms", "batch_per_s") if not np.isfinite(getattr(self.run, name))]:
            raise RuntimeError(
                f"{folder} cannot be the reference: {' and '.join(missing)} were not measured in time: raise --budget-s"
            )
        return self.model_dump_json(indent=1, exclude=_NOT_IN_REFERENCE) + "\n"

    @classmethod
    def read_reference(cls, path: Path) -> Overview | None:
        """What `as_reference` wrote; None if there is no file yet.

        Raises:
            RuntimeError: it cannot be read as a reference.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
            raise RuntimeError(f"{path}: cannot be read as a reference ({reason}): give --reference FOLDER") from None


def newest_results(results: Path, folder: Path | None = None) -> Overview:
    """The run in `folder`, or the newest full one, with the newest other results of its machine and bundle.

    Raises:
        RuntimeError: there is no run.
    """
    reported: set[str] = set()
    run = (folder, result_files.load(folder, Result)) if folder else newest_run(results, reported)
    if run is None:
        raise RuntimeError(f"{results}: no result yet: run swiftrec bench")
    selection = Selection(results, run[1], reported)
    stored = {
        "run": run,
        "peers": selection.newest(PeersResult, flaw=incomplete),
        "catalogue": selection.newest(CatalogueResult, flaw=partial),
        "teacher": selection.newest(TeacherResult, flaw=partial),
    }
    newest = {name: pair for name, pair in stored.items() if pair}
    folders = {name: path.name for name, (path, _) in newest.items()}
    return Overview(folders=folders, **{name: result for name, (_, result) in newest.items()})


def newest_run(results: Path, reported: set[str]) -> Stored[Result] | None:
    """The newest full run of `swiftrec bench`; the newest of any kind if there is none; None without a run."""
    runs = list(result_files.load_all(results, Result))
    reasons = [not_full(result) for _, result in runs]
    return choose(runs, reasons, reported) if "" in reasons else next(iter(runs), None)


def not_full(result: Result) -> str:
    """A reason if the figures of a run do not count; empty for a full and valid run."""
    if result.failures:
        return smoke(result) or f"not valid: {result.failures[0]}"
    return smoke(result) or partial(result)
