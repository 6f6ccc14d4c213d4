"""What is measured apart keeps what it has when a part of it ends early."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from swiftrec.benchmarks import catalogue, teacher
from swiftrec.benchmarks.process import Served
from tests.benchmarks.peers import BUNDLE_ID, scores, setting
from tests.benchmarks.results import catalogue_row

_SERVED = Served("nowhere", None)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    given = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, given)


def test_catalogue_keeps_the_sizes_before_the_one_that_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        size = command[command.index("--items") + 1]
        line = json.dumps({"catalogue": [asdict(catalogue_row())]})
        return subprocess.CompletedProcess(command, -9 if size == "1000000" else 0, line)

    monkeypatch.setattr(catalogue.subprocess, "run", run)  # type: ignore[attr-defined]
    monkeypatch.setattr(catalogue.report, "fingerprint", dict)  # type: ignore[attr-defined]
    joined: list[Any] = []
    monkeypatch.setattr(catalogue, "join", lambda *given: joined.append(given))
    monkeypatch.setattr(catalogue, "load_bundle", lambda _: setting(scores()).bundle)
    settings = catalogue.CatalogueSettings(items=[1_000, 1_000_000], _cli_parse_args=[])
    assert catalogue.run(settings) == 1
    said = capsys.readouterr()
    assert "1,000,000 items: the run ended with exit code -9" in said.err
    found = json.loads(said.out.splitlines()[-1])
    assert len(found["catalogue"]) == 1
    assert "exit code -9" in found["partial"]
    assert "PARTIAL: 1,000,000 items" in said.out
    ((_, kept, _, bundle),) = joined
    assert bundle == BUNDLE_ID
    assert found["bundle"] == BUNDLE_ID.fields()
    assert [row["partial"] for row in kept] == ["1,000,000 items: the run ended with exit code -9"]
    assert catalogue.run(settings.model_copy(update={"items": [1_000, 10_000]})) == 0
    assert [row for row in joined[1][1] if "partial" in row] == []


def test_catalogue_that_is_interrupted_keeps_what_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        if command[command.index("--items") + 1] == "10000":
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, 0, json.dumps({"catalogue": [asdict(catalogue_row())]}))

    monkeypatch.setattr(catalogue.subprocess, "run", run)  # type: ignore[attr-defined]
    monkeypatch.setattr(catalogue.report, "fingerprint", dict)  # type: ignore[attr-defined]
    joined: list[Any] = []
    monkeypatch.setattr(catalogue, "join", lambda *given: joined.append(given))
    monkeypatch.setattr(catalogue, "load_bundle", lambda _: setting(scores()).bundle)
    assert catalogue.run(catalogue.CatalogueSettings(items=[1_000, 10_000], _cli_parse_args=[])) == 1
    assert "partial: it was interrupted" in capsys.readouterr().err
    assert len(joined[0][1]) == 1


@pytest.mark.parametrize("good", [0, 3])
def test_teacher_keeps_the_rounds_before_a_server_ended(monkeypatch: pytest.MonkeyPatch, good: int) -> None:
    asked: list[int] = []

    def measure(*_: object) -> teacher.Found:
        asked.append(1)
        if len(asked) > good:
            raise RuntimeError("the server ended")
        return teacher.Found(1.0, 1.0, 1.0, 1.0)

    monkeypatch.setattr(teacher, "_measure", measure)
    settings = teacher.TeacherSettings(results=Path("nowhere"), _cli_parse_args=[])
    if good == 0:
        with pytest.raises(RuntimeError, match="ended"):
            teacher._rounds(settings, _SERVED, _SERVED)
    else:
        rounds, reason = teacher._rounds(settings, _SERVED, _SERVED)
        assert (len(rounds), reason) == (1, "the server ended")
