"""`swiftrec bench teacher`: the served student against the PyTorch teacher behind the same server.

For each the highest rate is sought whose p99 keeps a bound (Poisson arrivals), from shares of its own capacity measured
in the same round, both on the same core, in turn. CPU time per request is compared, too: it survives a noisy machine.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import measure, report
from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.client import TIMEOUT_S
from swiftrec.benchmarks.extra import gathered
from swiftrec.benchmarks.first import no_answer
from swiftrec.benchmarks.process import Served, serving
from swiftrec.benchmarks.suite.joined import join
from swiftrec.benchmarks.suite.settings import RESULTS
from swiftrec.benchmarks.suite.start import check_device
from swiftrec.benchmarks.workload import Name, make
from swiftrec.server.models.bundle import load_bundle
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest
from swiftrec.server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RecommendRequest

_TARGET = 10.0
_ALIKE_TEXTS = 32


class TeacherSettings(BaseSettings):
    """Requests per second at a bounded p99: served student over PyTorch teacher behind the same server."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench teacher", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle; its stages hold the teacher")
    variant: str | None = Field(None, description="encoder of the student; the bundle's default if not given")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where the student runs (cuda: never run on a GPU yet)")
    workload: Name = Field("mixed", description="what is sent")
    p99_bound_ms: float = Field(100.0, gt=0, description="what the p99 may be")
    rounds: int = Field(3, ge=1, description="student and teacher in turn")
    in_flight: int = Field(64, ge=1, description="at saturation")
    seconds: float = Field(5.0, gt=0, description="length of one measurement")
    shares: list[float] = Field(
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2, 0.1, 0.05], description="of the capacity, tried from the highest on"
    )
    teacher_flags: str = Field("", description="more flags of swiftrec bench teacher-serve, as one word")
    seed: int = Field(7, ge=0, description="of requests and arrivals")
    results: Path = Field(
        RESULTS, description="folder of results: the figures join the newest of this commit and bundle"
    )


@dataclass(frozen=True, slots=True)
class Found:
    """Of one server in one round: CPU microseconds a request, capacity, the rate that kept the bound (0: none), p99."""

    server_us: float
    capacity: float
    rate: float
    p99_ms: float


def run(settings: TeacherSettings) -> int:
    """Measure, print, and join the result; 1 if a server ended before the last round."""
    check_device(settings.device)
    bundle = BundleId.of(load_bundle(settings.bundle).manifest)
    student, teacher = _commands(settings)
    with serving(student) as ours, serving(teacher) as theirs:
        alike = _alike(settings, ours, theirs)
        rounds, reason = _rounds(settings, ours, theirs)
    figures = _figures(settings, rounds, alike) | {"partial": reason}
    rows = [[name, *_cells([pair[n] for pair in rounds])] for n, name in enumerate(("student", "teacher"))]
    text = report.table(["", "CPU us", "capacity/s", f"/s at p99 <= {settings.p99_bound_ms:g} ms", "p99 ms"], rows)
    rate, cpu = (report.spread(figures[name]) for name in ("rate_ratio", "cpu_ratio"))
    times = f"student / teacher: {rate} in rate, {cpu} in CPU"
    text = f"{text}\n{times}; target {_TARGET:g}. Same texts, cosine {alike:.3f}"
    code = report.ended("teacher", text, {"bundle": bundle.fields(), "teacher": figures}, reason)
    sys.stderr.write(f"joined {join('teacher', figures, settings.results, bundle)}\n")
    return code


def _rounds(settings: TeacherSettings, ours: Served, theirs: Served) -> tuple[list[tuple[Found, Found]], str]:
    """Student and teacher in turn, and why they are not all the rounds that were wanted.

    Raises:
        RuntimeError: there is not even one.
    """
    seeds = range(settings.seed, settings.seed + settings.rounds)
    return gathered((_measure(settings, ours, seed), _measure(settings, theirs, seed)) for seed in seeds)


def _commands(settings: TeacherSettings) -> tuple[list[str], list[str]]:
    common = ["--bundle", str(settings.bundle), "--port", "0", "--metrics-port", "0", "--sessions", "1"]
    common += ["--log-level", "error", "--default-timeout-ms", f"{1e3 * TIMEOUT_S:.0f}"]
    variant = ["--variant", settings.variant] if settings.variant else []
    student = ["-m", "swiftrec.server", *common, "--device", settings.device, *variant]
    return student, ["-m", "swiftrec.benchmarks", "teacher-serve", *common, *shlex.split(settings.teacher_flags)]


def _measure(settings: TeacherSettings, served: Served, seed: int) -> Found:
    common: dict[str, Any]
    common = {"bundle": settings.bundle, "workload": settings.workload, "seconds": settings.seconds}
    full = measure.load(served, in_flight=settings.in_flight, seed=seed, **common)
    capacity = full["throughput"]
    if not capacity:
        raise RuntimeError(f"nothing was answered within {settings.seconds:g} s: give more --seconds")
    for n, share in enumerate(sorted(settings.shares, reverse=True)):
        rate = share * capacity
        found = measure.load(served, may_refuse=True, loop="open", rate=rate, seed=seed + 10_000 + n, **common)
        if not found["failed"] and found["p99_ms"] <= settings.p99_bound_ms:
            return Found(full["server_us"], capacity, rate, found["p99_ms"])
    return Found(full["server_us"], capacity, 0.0, found["p99_ms"])


def _alike(settings: TeacherSettings, ours: Served, theirs: Served) -> float:
    """Mean cosine of the vectors that both give for the same texts: it is this student's teacher."""
    asked = make("mixed", settings.bundle, _ALIKE_TEXTS, settings.seed)
    texts = [RecommendRequest.FromString(payload).query for payload in asked.payloads]
    return float((_vectors(ours, texts) * _vectors(theirs, texts)).sum(1).mean())


def _vectors(served: Served, texts: Sequence[str]) -> Any:  # noqa: ANN401 (an array, [texts, dimensions])
    with grpc.insecure_channel(served.address) as channel:
        try:
            reply = EncoderServiceStub(channel).Encode(EncodeRequest(texts=texts), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise no_answer(served.address, error) from None
    return np.frombuffer(reply.vectors, "<f4").reshape(reply.rows, reply.dimensions)


def _figures(settings: TeacherSettings, rounds: Sequence[tuple[Found, Found]], alike: float) -> dict[str, Any]:
    return {
        "workload": settings.workload,
        "variant": settings.variant,
        "p99_bound_ms": settings.p99_bound_ms,
        "rate_ratio": [ours.rate / theirs.rate if theirs.rate else float("nan") for ours, theirs in rounds],
        "cpu_ratio": [theirs.server_us / ours.server_us for ours, theirs in rounds],
        "student_per_s": [ours.rate for ours, _ in rounds],
        "teacher_per_s": [theirs.rate for _, theirs in rounds],
        "teacher_flags": settings.teacher_flags,
        "cosine": alike,
    }


def _cells(found: Sequence[Found]) -> list[str]:
    return [
        report.spread([getattr(one, name) for one in found]) for name in ("server_us", "capacity", "rate", "p99_ms")
    ]
