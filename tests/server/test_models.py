"""Models on devices: batches, sessions, providers and the import of ONNX Runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, save

from swiftrec.server.arrays import Vector
from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.errors import ModelFailed, ProviderError
from swiftrec.server.models.device import check_providers, choose_providers
from swiftrec.server.models.runtime import widened_affinity
from swiftrec.server.models.session import IoBindingSession, OnnxSession, open_session
from swiftrec.server.pipeline.model_runner import ModelRunner
from tests.conftest import ROOT
from tests.until import LONG

BAD, SHORT, NAN, INFINITE = -1, -2, -3, -4


class Clock:
    """A clock that moves by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Doubler:
    """Doubles numbers; each row takes a second. The numbers below 0 are what can go wrong."""

    def __init__(self, clock: Clock) -> None:
        self.batches: list[list[int]] = []
        self._clock = clock

    def run(self, rows: Sequence[int]) -> list[Vector]:
        self.batches.append(list(rows))
        self._clock.now += len(rows)
        if BAD in rows:
            raise ValueError("cannot run it")
        answers = {NAN: np.nan, INFINITE: np.inf}
        vectors = [np.array([1.0, answers.get(row, 2.0 * row)], dtype=np.float32) for row in rows]
        return vectors[1:] if SHORT in rows else vectors


class Counts:
    """A recorder."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, int, float]] = []

    def on_batch(self, rows: int, tokens: int, padded: int, seconds: float) -> None:
        self.batches.append((rows, tokens, padded, seconds))


def runner(limits: Limits | None = None) -> tuple[ModelRunner[int], Doubler, Counts]:
    clock, counts = Clock(), Counts()
    model = Doubler(clock)
    return ModelRunner(model, limits or Limits(), clock=clock, recorder=counts), model, counts


def values(results: Sequence[Vector | ModelFailed]) -> list[float | None]:
    """The second number of each vector; None for an error."""
    return [None if isinstance(result, ModelFailed) else float(result[1]) for result in results]


def test_rows_keep_their_order_in_any_batches() -> None:
    runs, model, _ = runner(Limits(tokens=32))
    rows, lengths = [1, 2, 3, 4, 5], [30, 2, 20, 3, 30]
    results, seconds = runs.run(rows, lengths)
    assert values(results) == [2, 4, 6, 8, 10]
    assert sorted(map(sorted, model.batches)) == [[1], [2, 4], [3], [5]]
    assert seconds == [1, 2, 1, 2, 1]


@pytest.mark.parametrize("bad", [BAD, SHORT])
def test_failed_batch_is_rerun_by_row_so_that_only_the_faulty_row_fails(
    bad: int, caplog: pytest.LogCaptureFixture
) -> None:
    runs, model, counts = runner()
    results, _ = runs.run([1, bad, 3], [4, 4, 4])
    assert values(results) == [2, None, 6]
    assert model.batches == [[1, bad, 3], [1], [bad], [3]]
    assert counts.batches == [(1, 4, 4, 1.0)] * 2  # what failed is no batch
    (record,) = caplog.records
    assert (record.getMessage(), record.exc_info is not None) == ("model failed on a row", True)


def test_every_row_may_fail() -> None:
    runs, _, counts = runner()
    assert values(runs.run([BAD] * 3, [4] * 3)[0]) == [None] * 3
    assert counts.batches == []


@pytest.mark.parametrize("bad", [NAN, INFINITE])
def test_row_with_a_result_that_is_not_finite_fails_alone(bad: int) -> None:
    runs, model, _ = runner()
    results, _ = runs.run([1, bad, 3], [4, 4, 4])
    assert values(results) == [2, None, 6]
    assert "not finite" in str(results[1])
    assert len(model.batches) == 1  # nothing runs again


def test_batches_are_recorded_with_their_padding_and_their_time() -> None:
    runs, _, counts = runner()
    runs.run([1, 2, 3], [4, 6, 5])
    assert counts.batches == [(3, 15, 18, 3.0)]


def test_cost_model_is_updated_by_run_times() -> None:
    runs, _, _ = runner(Limits(batch_size=8))
    for size in [*range(1, 9)] * 16:
        runs.run([1] * size, [10] * size)
    assert runs.cost(4, 10) == pytest.approx(4.0, rel=0.05)
    assert runs.cost(8, 10) == pytest.approx(8.0, rel=0.05)


class Meeting:
    """A model each run of which waits for another one at the same time."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)
        self.threads: set[int] = set()

    def run(self, rows: Sequence[int]) -> list[Vector]:
        self.threads.add(threading.get_ident())
        self.barrier.wait(LONG)
        return [np.array([row], dtype=np.float32) for row in rows]


@contextmanager
def pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(threads) as executor:
        yield executor


@pytest.mark.parametrize("sessions", [2, 3])
def test_sessions_run_batches_at_the_same_time(sessions: int) -> None:
    """A batch runs only if others run beside it; the thread that asks is one of the sessions."""
    with pool(sessions - 1) as executor:
        model = Meeting(sessions)
        runs = ModelRunner(model, Limits(batch_size=1), sessions=sessions, executor=executor)
        rows = list(range(4 * sessions))
        results, _ = runs.run(rows, [4] * len(rows))
    assert [result[0] for result in results if not isinstance(result, ModelFailed)] == rows
    assert len(model.threads) == sessions
    assert threading.get_ident() in model.threads


def test_one_session_runs_one_batch_at_a_time() -> None:
    """Negative control."""
    model = Meeting(2)
    model.barrier.abort()  # it would wait for a second one in vain
    results, _ = ModelRunner(model, Limits(batch_size=1)).run([1, 2], [4, 4])
    assert all(isinstance(result, ModelFailed) for result in results)


def test_long_batch_is_split_between_sessions() -> None:
    with pool(1) as executor:
        model = Meeting(2)
        runs = ModelRunner(model, Limits(), sessions=2, executor=executor)
        results, _ = runs.run([1, 2, 3, 4], [200] * 4)  # predicted: 8 ms
    assert [float(result[0]) for result in results if not isinstance(result, ModelFailed)] == [1, 2, 3, 4]


def test_error_of_the_recorder_is_raised_after_all_sessions_have_finished() -> None:
    class Faulty(Counts):
        def on_batch(self, rows: int, tokens: int, padded: int, seconds: float) -> None:
            super().on_batch(rows, tokens, padded, seconds)
            raise RuntimeError("an error of ours")

    with pool(1) as executor:
        model = Meeting(2)
        runs = ModelRunner(model, Limits(batch_size=1), sessions=2, executor=executor, recorder=Faulty())
        with pytest.raises(RuntimeError, match="an error of ours"):
            runs.run([1, 2], [4, 4])
        assert model.barrier.n_waiting == 0


_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


_ALL = [_TENSORRT, _CUDA, _CPU]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Doubles `x`."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    path = tmp_path / "1" / "double.onnx"
    path.parent.mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(("device", "expected"), [("cpu", [_CPU]), ("cuda", [_CUDA]), ("tensorrt", [_TENSORRT, _CUDA])])
def test_device_gets_its_providers_in_order(device: str, expected: list[str]) -> None:
    assert [name for name, _ in choose_providers(device, _ALL, Path("cache"))] == expected


def test_tensorrt_runs_in_fp16_and_keeps_its_engines() -> None:
    options = dict(choose_providers("tensorrt", _ALL, Path("cache")))[_TENSORRT]
    assert options["trt_fp16_enable"] == options["trt_engine_cache_enable"] == "True"
    assert options["trt_engine_cache_path"] == "cache"


@pytest.mark.parametrize(
    ("device", "available", "lacking"),
    [("cuda", [_CPU], _CUDA), ("tensorrt", [_CUDA, _CPU], _TENSORRT), ("tensorrt", [_TENSORRT, _CPU], _CUDA)],
)
def test_provider_that_is_not_built_in_is_named(device: str, available: list[str], lacking: str) -> None:
    with pytest.raises(ProviderError, match=f"device {device} needs {lacking}.*pip install 'swiftrec\\[gpu\\]'"):
        choose_providers(device, available, Path("cache"))


def test_requested_provider_is_accepted() -> None:
    requested = choose_providers("tensorrt", _ALL, Path("cache"))
    check_providers("encoder.onnx", requested, _ALL)


@pytest.mark.parametrize("got", [[_CPU], [_CUDA, _CPU], [_TENSORRT, _CPU], []])
def test_fallback_is_refused(got: list[str]) -> None:
    requested = choose_providers("tensorrt", _ALL, Path("cache"))
    with pytest.raises(ProviderError, match=r"encoder.onnx: asked for \w+, ONNX Runtime chose \w+"):
        check_providers("encoder.onnx", requested, got)


def test_silent_fallback_of_a_session_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real fallback: only the list of providers is faked; ONNX Runtime has no CUDA and opens the model on the CPU."""
    if _CUDA in onnxruntime.get_available_providers():
        pytest.skip("this machine has the CUDA provider")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: _ALL)
    refused = pytest.raises(ProviderError, match=f"double.onnx: asked for {_CUDA}, ONNX Runtime chose {_CPU}")
    with pytest.warns(UserWarning, match="not in available provider"), refused:
        open_session(model, "cuda")


def test_bound_session_equals_the_plain_one(model: Path) -> None:
    session = onnxruntime.InferenceSession(str(model), providers=[_CPU])
    bound, plain = IoBindingSession(session, "cpu"), OnnxSession(session)
    for rows in (1, 3):
        feeds: dict[str, NDArray[np.generic]] = {"x": np.random.default_rng(rows).random((rows, 2), dtype=np.float32)}
        assert np.array_equal(bound.run(feeds), plain.run(feeds))
    assert bound.inputs == ["x"]


_FAKE = "import json, os, sys\nseen = sorted(os.sched_getaffinity(0))\n"


_TELL = "import json, os; print(json.dumps([onnxruntime.seen, sorted(os.sched_getaffinity(0))]))"


def imported(folder: Path, statement: str, cpus: set[int]) -> tuple[list[int], list[int]]:
    """The CPUs that a fake ONNX Runtime might use while it was imported, and those of the process after it."""
    (folder / "onnxruntime.py").write_text(_FAKE, encoding="utf-8")
    code = f"import os; os.sched_setaffinity(0, {cpus}); {statement}; {_TELL}"
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    during, after = json.loads(done.stdout)
    return during, after


@pytest.mark.parametrize("number", [1, 2])
def test_import_has_a_widened_affinity_that_is_restored_afterwards(tmp_path: Path, number: int) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    own = set(allowed[:number])
    during, after = imported(tmp_path, "from swiftrec.server.models.runtime import onnxruntime", own)
    assert set(during) >= (set(allowed) if len(own) == 1 else own)
    assert set(after) == own


def test_import_works_when_the_affinity_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_pid: int, _cpus: object) -> None:
        raise PermissionError

    affinity = os.sched_getaffinity(0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    with widened_affinity():
        pass
    monkeypatch.undo()
    assert os.sched_getaffinity(0) == affinity


def test_plain_import_is_limited_to_one_cpu(tmp_path: Path) -> None:
    """What the way of ours is compared with."""
    affinity = {min(os.sched_getaffinity(0))}
    during, _ = imported(tmp_path, "import onnxruntime", affinity)
    assert set(during) == affinity


def test_server_and_peers_import_onnx_runtime_with_widened_affinity() -> None:
    """The first import decides for the process, so no other module of a server may import it directly."""
    files = [*ROOT.glob("server/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    plain = [str(path.relative_to(ROOT)) for path in files if "\nimport onnxruntime" in path.read_text("utf-8")]
    assert plain == []
