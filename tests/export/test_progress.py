"""Progress of an export: lines without a terminal, bars on one, and the total time left."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from rich.console import Console

from swiftrec.export.config import ExportSettings
from swiftrec.export.job import Job
from swiftrec.export.progress import LINE_INTERVAL_S, Forecast, StageProgress, every, in_words
from swiftrec.export.stages.order import STAGES
from swiftrec.export.stages.runner import run_all
from tests.export.steps import STAGES as TINY

_LONG_S = 60.0
_SHARES = {stage.name: stage.typical_share or 0.0 for stage in STAGES}


class Clock:
    """Seconds that pass when a test sets them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def progress(clock: Clock, *, is_terminal: bool = False, term: str = "xterm") -> StageProgress:
    """The third of seven stages; two have run."""
    console = Console(
        file=io.StringIO(), force_terminal=is_terminal, color_system=None, width=120, _environ={"TERM": term}
    )
    forecast = Forecast({"data": 6, "finetune": 159}, _SHARES)
    ahead = ["onnx", "quantise", "verify", "final", "package"]
    return StageProgress(console, "distil", 3, 7, ahead, forecast, clock)


def written(shown: StageProgress) -> str:
    assert isinstance(shown.console.file, io.StringIO)
    return shown.console.file.getvalue()


def test_line_has_stage_step_and_times() -> None:
    clock = Clock()
    shown = progress(clock)
    clock.now = 30
    assert shown.line() == "  distil: 30 s so far; stage 3 of 7, about 3 min left in all"
    with shown.bar("distil bert3", 100) as step:
        assert shown.line().startswith("  distil: distil bert3 0/100; stage 3 of 7")
        clock.now = 60
        for _ in range(10):
            step()
        assert shown.line() == "  distil: distil bert3 10/100, 4 min left; stage 3 of 7, about 7 min left in all"
    assert "so far" in shown.line()


def test_line_of_a_first_run_has_no_forecast() -> None:
    shown = StageProgress(Console(file=io.StringIO()), "data", 1, 7, ["finetune"], Forecast({}), Clock())
    assert shown.line() == "  data: 0 s so far; stage 1 of 7"
    alone = StageProgress(Console(file=io.StringIO()), "verify", clock=Clock())
    assert alone.line() == "  verify: 0 s so far; stage verify alone"


def test_long_line_is_not_wrapped() -> None:
    shown = progress(Clock())
    shown.console.width = 40
    with shown.bar("a name that is long enough to be wrapped by a console of forty columns", 3):
        shown._print()
    assert written(shown).count("\n") == 1


def test_forecast_uses_the_last_run_or_the_typical_share() -> None:
    forecast = Forecast({"data": 4, "verify": 14, "own": 5}, _SHARES)
    assert forecast.of("verify") == 14
    assert forecast.of("own") == 5
    assert forecast.of("unknown") is None
    assert forecast.of("quantise") == pytest.approx(18 / 0.07 * 0.03)
    assert forecast.left("verify", 10, None, ["own"]) == 9
    assert forecast.left("verify", 100, 3, ["own"]) == 8  # longer than the last time: what the bar says
    assert forecast.left("verify", 0, 3, ["unknown"]) is None


def test_every_stage_has_a_typical_share() -> None:
    assert [stage.name for stage in STAGES if not stage.typical_share] == []
    assert sum(_SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_lines_are_printed_until_the_stage_ends(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    shown = progress(Clock(), is_terminal=is_terminal, term="dumb")  # a terminal that cannot redraw a line
    has_printed = threading.Event()
    monkeypatch.setattr("swiftrec.export.progress.LINE_INTERVAL_S", 0.0)
    monkeypatch.setattr(shown, "_print", has_printed.set)
    with shown.show():
        assert has_printed.wait(_LONG_S)
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_nothing_is_printed_within_the_first_interval() -> None:
    printed: list[int] = []
    with every(_LONG_S, lambda: printed.append(1)):
        pass
    assert not printed
    assert LINE_INTERVAL_S == 30


def test_terminal_shows_bars_and_the_total_time_left() -> None:
    clock = Clock()
    shown = progress(clock, is_terminal=True)
    with shown.show(), shown.bar("distil bert3", 2) as step:
        step()
        step()
    text = written(shown)
    assert "distil bert3" in text
    assert "2/2" in text
    assert "stage 3 of 7" in text
    assert "left in all" in text


@pytest.mark.parametrize("is_terminal", [False, True])
def test_stages_of_a_run_are_shown_with_their_number(tmp_path: Path, is_terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, color_system=None, width=120)
    job = Job(ExportSettings(artifacts=tmp_path, name="tiny", _cli_parse_args=[]), console)
    run_all(job, TINY)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for number, name in enumerate(("one", "two"), 1):
        assert f"[{number}/2] {name}" in text
        assert (f"stage {number} of 2" in text) == is_terminal  # in a log only after half a minute
    assert job.running is None


def test_bar_outside_a_stage_is_shown_alone(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    job = Job(ExportSettings(artifacts=tmp_path, name="tiny", _cli_parse_args=[]), console)
    with job.progress("evaluate", 1) as step:
        step()
    assert "1/1" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (150, "2 min"), (9_000, "2.5 h")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
