"""What goes wrong while something is measured is a sentence with a remedy, and keeps what was measured before."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from swiftrec.benchmarks import __main__ as command
from swiftrec.benchmarks import load, measure, overload, ratio
from swiftrec.benchmarks.extra import gathered, sentence
from swiftrec.benchmarks.peers import install
from swiftrec.benchmarks.process import Served
from swiftrec.benchmarks.record import Recorder
from swiftrec.benchmarks.recording import Marks, Recording
from swiftrec.benchmarks.summary import OK, UNAVAILABLE, Rows
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest

FULL = OSError(errno.ENOSPC, "No space left on device", "rows.npz")


def rows(*codes: int) -> Rows:
    times = np.arange(len(codes), dtype=np.float64)
    ones = np.ones(len(codes), np.int32)
    return Rows(times, times, times + 0.5, np.array(codes, np.int32), ones, ones)


def test_full_disk_and_forbidden_path_say_what_to_do() -> None:
    assert sentence(FULL) == "the disk is full at rows.npz (No space left on device): free some space and run again"
    denied = PermissionError(errno.EACCES, "Permission denied", "results")
    assert sentence(denied) == "results: Permission denied: give a path that can be read and written here"
    assert sentence(ConnectionError("reset")) == "reset"
    assert sentence(ValueError()) == "ValueError"


@pytest.mark.parametrize("error", [RuntimeError("it ended"), FULL, KeyboardInterrupt()])
def test_what_came_before_the_end_is_kept_with_its_reason(error: BaseException) -> None:
    def some(number: int) -> Iterator[int]:
        yield from range(number)
        raise error

    kept, reason = gathered(some(2))
    assert (kept, bool(reason)) == ([0, 1], True)
    with pytest.raises(type(error)):
        gathered(some(0))
    assert gathered(iter([7])) == ([7], "")


@pytest.mark.parametrize(
    ("codes", "is_gone"),
    [((OK,) * 5, False), ((OK, *(UNAVAILABLE,) * 4), True), ((UNAVAILABLE,) * 4 + (OK,), False), ((), False)],
)
def test_server_that_went_away_is_told_from_one_that_refuses_a_call(codes: tuple[int, ...], is_gone: bool) -> None:
    said = load.gone(rows(*codes), "here")
    assert bool(said) == is_gone
    assert not is_gone or said == (
        "partial: the server at here went away, 4 requests met nobody: look at its log, and start it again"
    )


def test_full_disk_leaves_the_summary_of_a_load_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(_: Path) -> None:
        raise FULL

    window = SimpleNamespace(measured=lambda: SimpleNamespace(save=save), rows=rows(OK))
    monkeypatch.setattr(load.first, "check_source", lambda *_: None)  # type: ignore[attr-defined]
    monkeypatch.setattr(load, "_alone", lambda _: window)
    monkeypatch.setattr(load, "figures", lambda *_: {"bottleneck": "", "throughput": 9.0})
    assert command.main(["load", "--target", "here:1", "--rows", "rows.npz"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["throughput"] == 9.0
    assert said.err == f"benchmarks load: {sentence(FULL)}\n"


def test_load_whose_rows_were_not_written_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.CompletedProcess([], 2, '{"throughput": 9}\n', "benchmarks load: the disk is full\n")
    monkeypatch.setattr(measure, "load_cores", lambda: {0})
    monkeypatch.setattr(measure.subprocess, "run", lambda *_, **__: ended)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="the load generator failed: the disk is full"):
        measure.load(Served("there", None))


_ROUND = ratio.Round(1.0, 2.0, 3.0, 4.0, 1.0, 5.0, 6.0)
_STEP = overload.Step(0.5, 1.0, 1.0, 1.0, 0, [])


@pytest.mark.parametrize(
    ("tool", "module", "settings", "of", "one"),
    [
        ("ratio", ratio, ratio.RatioSettings(_cli_parse_args=[]), "_round", _ROUND),
        ("overload", overload, overload.OverloadSettings(_cli_parse_args=[]), "_steps", ("", _STEP)),
    ],
)
def test_tool_whose_server_dies_shows_what_it_has_marked_partial(
    tool: str,
    module: Any,  # noqa: ANN401
    settings: Any,  # noqa: ANN401
    of: str,
    one: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[int] = []

    def each(*_: object) -> object:
        asked.append(1)
        if len(asked) > 1:
            raise RuntimeError("the server ended")
        return one

    def several(*_: object) -> Iterator[object]:
        while True:
            yield each()

    monkeypatch.setattr(module, of, each if tool == "ratio" else several)
    monkeypatch.setattr("swiftrec.benchmarks.report.fingerprint", dict)
    assert module.run(settings) == 1
    said = capsys.readouterr()
    assert said.err == f"benchmarks {tool}: partial: the server ended\n"
    assert "PARTIAL: the server ended" in said.out
    assert json.loads(said.out.splitlines()[-1])["partial"] == "the server ended"


@pytest.mark.parametrize("tool", ["summary", "targets", "compare"])
def test_empty_results_folder_says_what_to_run(tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--base", str(tmp_path)] if tool == "compare" else []
    assert command.main([tool, "--results", str(tmp_path), *flags]) == 2
    said = capsys.readouterr().err
    assert "no result" in said
    assert "run make bench" in said


def test_peer_that_does_not_install_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "HOME", tmp_path)
    ended = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found for mosec\n")
    monkeypatch.setattr(install.subprocess, "run", lambda *_, **__: ended)  # type: ignore[attr-defined]
    with pytest.raises(install.InstallError, match=r"does not install: ERROR: No matching .*; run it again with a net"):
        install.python_of("mosec")

    def full(*_: object, **__: object) -> None:
        raise FULL

    monkeypatch.setattr(install.subprocess, "run", full)  # type: ignore[attr-defined]
    with pytest.raises(install.InstallError, match="does not install: the disk is full"):
        install.python_of("mosec")


def test_recorder_on_a_full_disk_lets_calls_pass(capsys: pytest.CaptureFixture[str]) -> None:
    class Disk:
        name, is_full = "calls", False

        def write(self, line: bytes, /) -> int:
            if self.is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return len(line)

    disk = Disk()
    recorder = Recorder("encode", Marks(len, keep_texts=False), disk)
    call = EncodeRequest(texts=["one"]).SerializeToString()
    recorder.note("/swiftrec.v1.EncoderService/Encode", call)
    disk.is_full = True
    for _ in range(3):
        recorder.note("/swiftrec.v1.EncoderService/Encode", call)
    assert (recorder.written, recorder.has_failed) == (1, True)
    said = capsys.readouterr().err
    assert said.count("the disk is full at calls (No space left on device): free some space") == 1
    assert "calls pass on and are not written any more" in said


def test_recording_whose_last_line_is_cut_is_read_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"format": 1, "method": "encode"}, *({"t": n, "requests": [["m", 5]]} for n in range(2))]
    path = tmp_path / "calls"
    path.write_text("\n".join(map(json.dumps, lines))[:-4])
    assert len(Recording.load(path).calls) == 1
    assert f"{path}: partial: its last line is cut" in capsys.readouterr().err
    path.write_text("\n".join(map(json.dumps, lines)))
    assert len(Recording.load(path).calls) == 2
