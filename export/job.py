"""One run of the export as its stages see it: settings, the folders of the stages, and how progress is shown."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rich.console import Console

from swiftrec.export.config import ExportSettings
from swiftrec.export.progress import StageProgress


@dataclass
class Job:
    """One run of the export.

    Args:
        settings: flags and variables.
        console: where progress is shown.
        outside: files outside the stage's folder that the running stage has written (`also_wrote`).
        running: progress of the running stage; None between stages.
    """

    settings: ExportSettings
    console: Console = field(default_factory=lambda: Console(stderr=True))
    outside: list[Path] = field(default_factory=list)
    running: StageProgress | None = None

    @cached_property
    def root(self) -> Path:
        """Folder of this bundle's stages."""
        return self.settings.artifacts / ".stages" / self.settings.name

    def folder(self, name: str) -> Path:
        """Folder of a stage, whether it exists or not."""
        return self.root / name

    def also_wrote(self, path: Path) -> None:
        """Name a file outside the stage's folder whose absence makes the stage stale."""
        self.outside.append(path)

    @contextlib.contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a bar with the remaining time; call the yielded function once for each of `total` steps."""
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
