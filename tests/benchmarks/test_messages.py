"""What goes wrong while something is measured is a sentence with a remedy, and keeps what was measured before."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from swiftrec.benchmarks import __main__ as command
from swiftrec.benchmarks import load, overload, server_process
from swiftrec.benchmarks.optional_deps import collect_until_error, error_sentence
from swiftrec.benchmarks.peers import install
from swiftrec.benchmarks.record import Recorder
from swiftrec.benchmarks.recording import Pseudonyms, Recording
from swiftrec.benchmarks.server_process import ServerProcess
from swiftrec.benchmarks.statistics import OK, UNAVAILABLE, RequestRows
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest

FULL = OSError(errno.ENOSPC, "No space left on device", "rows.npz")


def rows(*codes: int) -> RequestRows:
    times = np.arange(len(codes), dtype=np.float64)
    ones = np.ones(len(codes), np.int32)
    return RequestRows(times, times, times + 0.5, np.array(codes, np.int32), ones, ones)


def test_full_disk_and_forbidden_path_say_what_to_do() -> None:
    assert (
        error_sentence(FULL) == "the disk is full at rows.npz (No space left on device): free some space and run again"
    )
    denied = PermissionError(errno.EACCES, "Permission denied", "results")
    assert error_sentence(denied) == "results: Permission denied: give a path that can be read and written here"
    assert error_sentence(ConnectionError("reset")) == "reset"
    assert error_sentence(ValueError()) == "ValueError"


@pytest.mark.parametrize("error", [RuntimeError("it ended"), FULL, KeyboardInterrupt()])
def test_what_came_before_the_end_is_kept_with_its_reason(error: BaseException) -> None:
    def some(number: int) -> Iterator[int]:
        yield from range(number)
        raise error

    kept, reason = collect_until_error(some(2))
    assert (kept, bool(reason)) == ([0, 1], True)
    with pytest.raises(type(error)):
        collect_until_error(some(0))
    assert collect_until_error(iter([7])) == ([7], "")


@pytest.mark.parametrize(
    ("codes", "is_gone"),
    [((OK,) * 5, False), ((OK, *(UNAVAILABLE,) * 4), True), ((UNAVAILABLE,) * 4 + (OK,), False), ((), False)],
)
def test_server_that_went_away_differs_from_one_that_rejects_a_call(codes: tuple[int, ...], is_gone: bool) -> None:
    said = load.server_gone(rows(*codes), "here")
    assert bool(said) == is_gone
    assert not is_gone or said == (
        "partial: the server at here went away, 4 requests failed: look at its log, and start it again"
    )


def test_full_disk_leaves_the_summary_of_a_load_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(_: Path) -> None:
        raise FULL

    window = SimpleNamespace(measured=lambda: SimpleNamespace(save=save), rows=rows(OK))
    monkeypatch.setattr(load, "check_source", lambda *_: None)
    monkeypatch.setattr(load, "_run_client", lambda _: window)
    monkeypatch.setattr(load, "window_figures", lambda *_: {"bottleneck": "", "throughput": 9.0})
    assert command.main(["load", "--target", "here:1", "--rows", "rows.npz"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["throughput"] == 9.0
    assert said.err == f"swiftrec bench load: {error_sentence(FULL)}\n"


def test_load_whose_rows_were_not_written_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.CompletedProcess([], 2, '{"throughput": 9}\n', "swiftrec bench load: the disk is full\n")
    monkeypatch.setattr(server_process, "load_cores", lambda: {0})
    monkeypatch.setattr(server_process.subprocess, "run", lambda *_, **__: ended)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="the load generator failed: the disk is full"):
        server_process.run_load_tool(ServerProcess("there", None))


def test_tool_whose_server_dies_shows_what_it_has_marked_partial(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def steps(_: object) -> Iterator[tuple[str, overload.LoadStep]]:
        yield "", overload.LoadStep(0.5, 1.0, 1.0, 1.0, 0, [])
        raise RuntimeError("the server ended")

    monkeypatch.setattr(overload, "_steps", steps)
    monkeypatch.setattr("swiftrec.benchmarks.formatting.fingerprint", dict)
    assert overload.run(overload.OverloadSettings(_cli_parse_args=[])) == 1
    printed = capsys.readouterr()
    assert printed.err == "swiftrec bench overload: partial: the server ended\n"
    assert "PARTIAL: the server ended" in printed.out
    assert json.loads(printed.out.splitlines()[-1])["partial"] == "the server ended"


@pytest.mark.parametrize("tool", ["summary", "targets", "compare"])
def test_empty_results_folder_says_what_to_run(tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--base", str(tmp_path)] if tool == "compare" else []
    assert command.main([tool, "--results", str(tmp_path), *flags]) == 2
    said = capsys.readouterr().err
    assert "no result" in said
    assert "run swiftrec bench" in said


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
    recorder = Recorder("encode", Pseudonyms(len, keep_texts=False), disk)
    call = EncodeRequest(texts=["one"]).SerializeToString()
    recorder.record("/swiftrec.v1.EncoderService/Encode", call)
    disk.is_full = True
    for _ in range(3):
        recorder.record("/swiftrec.v1.EncoderService/Encode", call)
    assert (recorder.written, recorder.has_failed) == (1, True)
    said = capsys.readouterr().err
    assert said.count("the disk is full at calls (No space left on device): free some space") == 1
    assert "calls are forwarded, but no longer recorded" in said


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
