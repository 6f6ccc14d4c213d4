"""`swiftrec bench teacher`: the served student compared with the PyTorch teacher behind the same server.

For each the highest rate is searched whose p99 stays within a bound (Poisson arrivals), from shares of its capacity in
the same round, both on the same core, in turn. CPU time per request is compared as well: it varies less on a noisy
machine. `swiftrec bench teacher-serve` is that server: its batches are whole steps, up to the server's limits, since
with a cost model in which padding costs nothing texts are not separated by length.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import grpc
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import formatting, result_files, server_process
from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.client import TIMEOUT_S
from swiftrec.benchmarks.connection import no_answer
from swiftrec.benchmarks.environment import check_device
from swiftrec.benchmarks.optional_deps import collect_until_error
from swiftrec.benchmarks.result_files import RESULTS, ToolResult
from swiftrec.benchmarks.server_process import ServerProcess, running_server
from swiftrec.benchmarks.workload import Name, make
from swiftrec.server.addresses import join_address
from swiftrec.server.app import App
from swiftrec.server.batching.cost_model import CostModel
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import find_bundle, load_bundle
from swiftrec.server.models.session import Session
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest
from swiftrec.server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RecommendRequest
from swiftrec.server.signals import stop_on_signals

if TYPE_CHECKING:
    from torch import Tensor, nn

    from swiftrec.export.job import Job

_TARGET_FACTOR = 10.0
_COSINE_TEXTS = 32


class TeacherSettings(BaseSettings):
    """Compare the served student with the PyTorch teacher: request rate at a p99 limit.

    Use it to see the gain of distillation and quantisation. Needs the stages of the bundle's export and the extra
    export. Prints both servers and their ratios, and writes teacher.json into a new folder of results.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench teacher", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle; its stages hold the teacher")
    variant: str | None = Field(None, description="encoder of the student; the bundle's default if not given")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where the student runs (cuda: never run on a GPU yet)")
    workload: Name = Field("mixed", description="requests to send: see benchmarks/workload.py")
    p99_bound_ms: float = Field(100.0, gt=0, description="limit of the p99")
    rounds: int = Field(3, ge=1, description="number of rounds, each with student and teacher")
    in_flight: int = Field(64, ge=1, description="requests in flight at saturation")
    seconds: float = Field(5.0, gt=0, description="length of one measurement")
    shares: list[float] = Field(
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2, 0.1, 0.05], description="shares of the capacity to try, highest first"
    )
    teacher_flags: str = Field("", description="more flags for swiftrec bench teacher-serve, in quotes")
    seed: int = Field(7, ge=0, description="random seed of requests and arrivals")
    results: Path = Field(RESULTS, description="folder of results")


class TeacherResult(ToolResult):
    """Student and teacher, round by round."""

    file: ClassVar[str] = "teacher.json"
    tool: ClassVar[str] = "swiftrec bench teacher"

    figures: dict[str, Any] = Field({}, description="ratios, rates, p99 bound, cosine of the texts' vectors")


@dataclass(frozen=True, slots=True)
class ServerRates:
    """One server in one round: CPU microseconds a request, capacity, the rate within the bound (0: none), its p99."""

    server_us: float
    capacity: float
    rate: float
    p99_ms: float


Round = tuple[ServerRates, ServerRates]
"""Student and teacher."""


def run(settings: TeacherSettings) -> int:
    """Measure, print and write the result; 1 if a server ended before the last round."""
    check_device(settings.device)
    result = TeacherResult.begin(BundleId.of(load_bundle(settings.bundle).manifest), settings)
    student_command, teacher_command = _commands(settings)
    with running_server(student_command) as student, running_server(teacher_command) as teacher:
        cosine = _cosine(settings, student, teacher)
        rounds, reason = collect_until_error(_rounds(settings, student, teacher))
    figures = _figures(settings, rounds, cosine)
    result.figures = formatting.finite(figures)
    result.finish(reason)
    rows = [[name, *_cells([pair[n] for pair in rounds])] for n, name in enumerate(("student", "teacher"))]
    bound = f"/s at p99 <= {settings.p99_bound_ms:g} ms"
    rate, cpu = (formatting.spread(figures[name]) for name in ("rate_ratio", "cpu_ratio"))
    text = (
        f"{formatting.table(['', 'CPU us', 'capacity/s', bound, 'p99 ms'], rows)}\n"
        f"student / teacher: {rate} in rate, {cpu} in CPU; target {_TARGET_FACTOR:g}. Same texts, cosine {cosine:.3f}\n"
        f"written to {result_files.save(result_files.new_folder(settings.results, result.machine), result)}"
    )
    return formatting.finish("teacher", text, {"bundle": result.bundle, "teacher": result.figures}, reason)


def _rounds(settings: TeacherSettings, student: ServerProcess, teacher: ServerProcess) -> Iterator[Round]:
    """Student and teacher in turn."""
    for seed in range(settings.seed, settings.seed + settings.rounds):
        yield _measure(settings, student, seed), _measure(settings, teacher, seed)


def _commands(settings: TeacherSettings) -> tuple[list[str], list[str]]:
    common = ["--bundle", str(settings.bundle), "--port", "0", "--metrics-port", "0", "--sessions", "1"]
    common += ["--log-level", "error", "--default-timeout-ms", f"{1e3 * TIMEOUT_S:.0f}"]
    variant = ["--variant", settings.variant] if settings.variant else []
    student = ["-m", "swiftrec.server", *common, "--device", settings.device, *variant]
    return student, ["-m", "swiftrec.benchmarks", "teacher-serve", *common, *shlex.split(settings.teacher_flags)]


def _measure(settings: TeacherSettings, server: ServerProcess, seed: int) -> ServerRates:
    common: dict[str, Any]
    common = {"bundle": settings.bundle, "workload": settings.workload, "seconds": settings.seconds}
    full = server_process.run_load_tool(server, in_flight=settings.in_flight, seed=seed, **common)
    capacity = full["throughput"]
    if not capacity:
        raise RuntimeError(f"nothing was answered within {settings.seconds:g} s: give more --seconds")
    for n, share in enumerate(sorted(settings.shares, reverse=True)):
        rate = share * capacity
        open_seed = seed + 10_000 + n
        window = server_process.run_load_tool(server, may_reject=True, loop="open", rate=rate, seed=open_seed, **common)
        if not window["failed"] and window["p99_ms"] <= settings.p99_bound_ms:
            return ServerRates(full["server_us"], capacity, rate, window["p99_ms"])
    return ServerRates(full["server_us"], capacity, 0.0, float("nan"))


def _cosine(settings: TeacherSettings, student: ServerProcess, teacher: ServerProcess) -> float:
    """Mean cosine of both servers' vectors of the same texts: it shows that this is the student's teacher."""
    requests = make("mixed", settings.bundle, _COSINE_TEXTS, settings.seed)
    texts = [RecommendRequest.FromString(payload).query for payload in requests.payloads]
    return float((_vectors(student, texts) * _vectors(teacher, texts)).sum(1).mean())


def _vectors(server: ServerProcess, texts: Sequence[str]) -> Any:  # noqa: ANN401 (an array, [texts, dimensions])
    with grpc.insecure_channel(server.address) as channel:
        try:
            response = EncoderServiceStub(channel).Encode(EncodeRequest(texts=texts), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise no_answer(server.address, error) from None
    return np.frombuffer(response.vectors, "<f4").reshape(response.rows, response.dimensions)


def _figures(settings: TeacherSettings, rounds: Sequence[Round], cosine: float) -> dict[str, Any]:
    return {
        "workload": settings.workload,
        "variant": settings.variant,
        "p99_bound_ms": settings.p99_bound_ms,
        "rate_ratio": [student.rate / teacher.rate if teacher.rate else float("nan") for student, teacher in rounds],
        "cpu_ratio": [teacher.server_us / student.server_us for student, teacher in rounds],
        "student_per_s": [student.rate for student, _ in rounds],
        "teacher_per_s": [teacher.rate for _, teacher in rounds],
        "teacher_flags": settings.teacher_flags,
        "cosine": cosine,
    }


def _cells(rounds: Sequence[ServerRates]) -> list[str]:
    fields = ("server_us", "capacity", "rate", "p99_ms")
    return [formatting.spread([getattr(rates, field) for rates in rounds]) for field in fields]


_KEEP_SHARE = 0.99  # of the typical length so far, at each batch


class TeacherServeSettings(ServerSettings):
    """Run the server with the PyTorch teacher of a bundle; accepts all flags of swiftrec serve."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench teacher-serve")

    smart: bool = Field(False, description="group texts by length, as the server does with the student")


class TeacherSession:
    """Runs a PyTorch module instead of an ONNX session.

    Args:
        run: arrays by name -> the output.
    """

    def __init__(self, run: Callable[[dict[str, Tensor]], Tensor]) -> None:
        self._run = run

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run the module."""
        import torch

        with torch.inference_mode():
            output: NDArray[np.float32] = self._run({k: torch.from_numpy(v) for k, v in feeds.items()}).numpy()
        return output


class FlatCost(CostModel):
    """A cost model in which every row costs the same, whatever its length, so that padding is free."""

    def __init__(self) -> None:
        super().__init__()
        self._typical = 16.0

    def row_s(self, _length: int) -> float:
        """Seconds for one more row."""
        return super().row_s(round(self._typical))

    def cache_pressure_s(self, _length: int) -> float:
        """Seconds for each pair of rows."""
        return super().cache_pressure_s(round(self._typical))

    def observe(self, rows: int, length: int, seconds: float) -> None:
        """Update the typical length."""
        self._typical = _KEEP_SHARE * self._typical + (1.0 - _KEEP_SHARE) * length
        super().observe(rows, length, seconds)


def serve(settings: TeacherServeSettings) -> int:
    """Serve until SIGTERM."""
    encoder, ranker = _modules(settings.bundle[0])

    def open_session(path: Path, _device: str, _threads: int) -> Session:
        if path.name == "ranker.onnx":
            return TeacherSession(lambda feeds: ranker(feeds["vectors"], feeds["kinds"], feeds["mask"]))
        return TeacherSession(lambda feeds: encoder(feeds["input_ids"], feeds["attention_mask"]))

    app = App(settings, open_session=open_session)
    stop = stop_on_signals(app)
    app.start()
    with app.registry.lease() as engine:
        if not settings.smart:
            engine.stages.encoder.cost, engine.stages.ranker.cost = FlatCost(), FlatCost()
    address, metrics = join_address(settings.host, app.port), join_address(settings.metrics_host, app.metrics_port)
    sys.stdout.write(f"teacher on {address}, metrics on {metrics}\n")
    sys.stdout.flush()
    stop.wait()
    app.stop()
    return 0


def _modules(bundle: Path) -> tuple[nn.Module, nn.Module]:
    """The teacher's encoder (token ids, mask -> both halves) and ranker, from the export's stages beside the bundle.

    Raises:
        RuntimeError: the stages or the extra export are missing.
    """
    try:
        import torch

        from swiftrec.export.models.one_pass import one_pass_teacher
        from swiftrec.export.models.ranker import LastUser
        from swiftrec.export.models.teacher import load_teacher
    except ImportError as error:
        raise RuntimeError(
            f"the teacher needs the extra export ({error.name} is missing): pip install 'swiftrec[export]'"
        ) from None
    job = _job(bundle)
    if not (job.folder("finetune") / "teacher.json").exists():
        raise RuntimeError(f"{job.folder('finetune')}: no teacher: run swiftrec export")
    torch.set_num_threads(1)
    teacher = load_teacher(job.folder("finetune"))
    return one_pass_teacher(job), LastUser(teacher.ranker).eval()


def _job(bundle: Path) -> Job:
    from swiftrec.export.config import ExportSettings
    from swiftrec.export.job import Job

    name, folder = load_bundle(bundle).manifest.name, find_bundle(bundle)
    return Job(ExportSettings(name=name, artifacts=folder.parent.parent, _cli_parse_args=[]))
