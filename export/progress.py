"""Progress of an export: live bars on a terminal, plain lines elsewhere and if TERM=dumb; both with the time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_INTERVAL_S = 30.0
_REFRESHES_PER_S = 2
_MANY_SECONDS, _MANY_MINUTES = 90, 90

Clock = Callable[[], float]
Bars = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Shows a bar with this label and number of steps; the block calls the yielded function once for each step."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long stages take: as long as the last time, else by their typical share of the whole.

    Args:
        seconds: stage -> seconds of the last run, for the stages that have run at all.
        shares: stage -> its typical share of an export's time.
    """

    seconds: Mapping[str, float]
    shares: Mapping[str, float] = field(default_factory=dict)

    def of(self, stage: str) -> float | None:
        """Seconds that the stage will take; None if no stage has run yet, or nothing typical is known of it."""
        if stage in self.seconds:
            return self.seconds[stage]
        known = [name for name in self.seconds if name in self.shares]
        if not known or stage not in self.shares:
            return None
        whole = sum(self.seconds[name] for name in known) / sum(self.shares[name] for name in known)
        return whole * self.shares[stage]

    def left(self, stage: str, elapsed_s: float, bar_left_s: float | None, ahead: Sequence[str]) -> float | None:
        """Seconds left of the running stage and of those `ahead` of it; None if they cannot be estimated."""
        own, later = self.of(stage), [self.of(name) for name in ahead]
        if own is None and bar_left_s is None:
            return None
        rest = max((own or 0.0) - elapsed_s, bar_left_s or 0.0)
        return rest + sum(seconds for seconds in later if seconds) if None not in later else None


@dataclass(slots=True)
class _Bar:
    label: str
    total: int
    started: float
    done: int = 0

    def left_s(self, now: float) -> float | None:
        """Seconds for the steps that remain, at the mean pace so far; None before the first one."""
        return (now - self.started) / self.done * (self.total - self.done) if self.done else None


@dataclass
class StageProgress:
    """Shows one stage of a run while it runs.

    Args:
        console: where it is shown.
        name: the stage.
        number: which stage of the export it is, from 1; 0 where a single stage is run.
        stages: how many stages there are.
        ahead: names of the stages that will run after it.
        forecast: what is known of their times.
        clock: seconds.
    """

    console: Console
    name: str
    number: int = 0
    stages: int = 0
    ahead: Sequence[str] = ()
    forecast: Forecast = field(default_factory=lambda: Forecast({}))
    clock: Clock = time.monotonic
    _bars: list[_Bar] = field(default_factory=list)
    _shown: Progress | None = None

    def __post_init__(self) -> None:
        self._started = self.clock()

    @contextmanager
    def show(self) -> Iterator[None]:
        """Show the stage until the block ends, whether it has bars or not."""
        if not self.console.is_interactive:
            with every(LINE_INTERVAL_S, self._print):
                yield
            return
        bar = (TextColumn("  {task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._shown = Progress(*bar, TextColumn("left"), TimeRemainingColumn())
        whole = Progress(TextColumn("  {task.description}"), _LeftColumn(self.left_in_all))
        whole.add_task(self._title())
        with Live(
            Group(self._shown, whole), console=self.console, refresh_per_second=_REFRESHES_PER_S, transient=False
        ):
            yield
        self._shown = None

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a bar of `total` steps; call the yielded function once for each."""
        bar, shown = _Bar(label, total, self.clock()), self._shown
        task = shown.add_task(label, total=total) if shown else None

        def step() -> None:
            bar.done += 1
            if shown is not None and task is not None:
                shown.advance(task)

        self._bars.append(bar)
        try:
            yield step
        finally:
            self._bars.remove(bar)

    def line(self) -> str:
        """Stage, bar, steps and times in one line, for a log."""
        now, parts = self.clock(), []
        for bar in self._bars[-1:]:
            left = bar.left_s(now)
            parts.append(f"{bar.label} {bar.done}/{bar.total}" + ("" if left is None else f", {in_words(left)} left"))
        parts = parts or [f"{in_words(now - self._started)} so far"]
        left_in_all = f", {self.left_in_all()}" if self.left_in_all() else ""
        return f"  {self.name}: {parts[0]}; {self._title()}{left_in_all}"

    def left_in_all(self) -> str:
        """The time left until all stages have run, in words; empty if it cannot be estimated."""
        now = self.clock()
        bar_left = next((bar.left_s(now) for bar in self._bars[-1:]), None)
        left = self.forecast.left(self.name, now - self._started, bar_left, self.ahead)
        return "" if left is None or not self.number else f"about {in_words(left)} left in all"

    def _title(self) -> str:
        return f"stage {self.number} of {self.stages}" if self.number else f"stage {self.name} alone"

    def _print(self) -> None:
        self.console.print(self.line(), markup=False, highlight=False, soft_wrap=True)


class _LeftColumn(ProgressColumn):
    def __init__(self, words: Callable[[], str]) -> None:
        super().__init__()
        self._words = words

    def render(self, task: Task) -> Text:  # noqa: ARG002 (rich's signature)
        """The estimate as it is now."""
        return Text(self._words())


@contextmanager
def no_bars(label: str, total: int) -> Iterator[Callable[[], None]]:  # noqa: ARG001 (the signature of `Bars`)
    """Show nothing."""
    yield lambda: None


@contextmanager
def every(interval_s: float, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` in a thread, once an interval, until the block ends."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(interval_s):
            act()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def in_words(seconds: float) -> str:
    """A duration as a person says it: "40 s", "7 min", "2.5 h"."""
    if seconds < _MANY_SECONDS:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < _MANY_MINUTES else f"{minutes / 60:.1f} h"
