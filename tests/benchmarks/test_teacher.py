"""Comparison with the teacher; it and the catalogue keep what was measured before they end early."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from swiftrec.benchmarks import result_files, server_process, teacher
from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.catalogue import command
from swiftrec.benchmarks.catalogue.result import CatalogueResult
from swiftrec.benchmarks.optional_deps import collect_until_error
from swiftrec.benchmarks.server_process import ServerProcess
from swiftrec.benchmarks.teacher import FlatCost, TeacherResult
from swiftrec.server.batching.cost_model import CostModel
from swiftrec.server.batching.scheduler import Limits, form_batches
from swiftrec.server.models.bundle import Bundle
from tests.benchmarks.peers import BUNDLE_ID, scores, setup
from tests.benchmarks.results import MACHINE, catalogue_row, folders

_SERVER = ServerProcess("nowhere", None)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    given = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, given)


def catalogue_child(fails: str, error: BaseException | None = None) -> Any:  # noqa: ANN401 (a function)
    """Instead of `subprocess.run`: the process of a size, which ends with an error at the size `fails`."""

    def run(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        has_failed = f"--items={fails}" in command
        if has_failed and error:
            raise error
        line = json.dumps({"catalogue": [asdict(catalogue_row())]})
        return subprocess.CompletedProcess(command, -9 if has_failed else 0, line)

    return run


@pytest.mark.parametrize(
    ("error", "reason"),
    [(None, "1,000,000 items: the run ended with exit code -9"), (KeyboardInterrupt(), "it was interrupted")],
)
def test_catalogue_keeps_the_sizes_before_the_one_that_ended(
    error: BaseException | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command.subprocess, "run", catalogue_child("1000000", error))  # type: ignore[attr-defined]
    monkeypatch.setattr(result_files, "fingerprint", lambda: MACHINE)
    monkeypatch.setattr("swiftrec.benchmarks.formatting.fingerprint", lambda: MACHINE)
    monkeypatch.setattr(command, "load_bundle", lambda _: setup(scores()).bundle)
    settings = command.CatalogueSettings(items=[1_000, 1_000_000], results=tmp_path, _cli_parse_args=[])
    assert command.run(settings) == 1
    printed = capsys.readouterr()
    assert reason in printed.err
    assert f"PARTIAL: {reason}" in printed.out
    assert len(json.loads(printed.out.splitlines()[-1])["catalogue"]) == 1
    (folder,) = folders(tmp_path)
    stored = result_files.load(folder, CatalogueResult)
    assert (len(stored.rows), stored.is_partial, stored.reason) == (1, True, reason)
    assert stored.bundle_id == BUNDLE_ID
    assert command.run(settings.model_copy(update={"items": [1_000, 10_000]})) == 0
    stored = result_files.load(folders(tmp_path)[-1], CatalogueResult)
    assert (len(stored.rows), stored.is_partial) == (2, False)


@pytest.mark.parametrize("good", [0, 3])
def test_teacher_keeps_the_rounds_before_a_server_ended(monkeypatch: pytest.MonkeyPatch, good: int) -> None:
    calls: list[int] = []

    def measure(*_: object) -> teacher.ServerRates:
        calls.append(1)
        if len(calls) > good:
            raise RuntimeError("the server ended")
        return teacher.ServerRates(1.0, 1.0, 1.0, 1.0)

    monkeypatch.setattr(teacher, "_measure", measure)
    settings = teacher.TeacherSettings(results=Path("nowhere"), _cli_parse_args=[])
    rounds = teacher._rounds(settings, _SERVER, _SERVER)
    if good == 0:
        with pytest.raises(RuntimeError, match="ended"):
            collect_until_error(rounds)
    else:
        collected, reason = collect_until_error(rounds)
        assert (len(collected), reason) == (1, "the server ended")


_LENGTHS = [8, 120, 9, 110, 8, 115, 9, 128]
_LIMITS = Limits(batch_size=8, tokens=100_000)


def test_teacher_takes_what_came_whatever_its_length() -> None:
    assert [sorted(batch) for batch in form_batches(_LENGTHS, _LIMITS, FlatCost())] == [list(range(8))]


def test_the_servers_own_cost_model_would_not() -> None:
    """Negative control."""
    batches = form_batches(_LENGTHS, _LIMITS, CostModel())
    assert len(batches) > 1
    assert all(len({_LENGTHS[n] > 100 for n in batch}) == 1 for batch in batches)


def test_student_and_teacher_are_measured_side_by_side(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        server_process, "run_load_tool", partial(server_process.run_load_tool, may_limit=True)
    )  # a busy machine makes clients late
    command = ["teacher", "--bundle", str(bundle.folder), "--rounds", "1"]
    command += [
        "--seconds",
        "1",
        "--in-flight",
        "8",
        "--shares",
        "[0.3]",
        "--p99-bound-ms",
        "60000",
        "--results",
        str(tmp_path),
    ]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["teacher"]
    assert result["cosine"] > 0.75  # of the default student, on texts of random words
    assert result["cpu_ratio"][0] > 1
    assert result_files.load(next(tmp_path.iterdir()), TeacherResult).figures["cosine"] == result["cosine"]
