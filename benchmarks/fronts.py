"""`python -m benchmarks fronts`: gRPC's thread-pool server against its asyncio server, CPU per request and latency."""

from __future__ import annotations

import os
import statistics
import sys

from benchmarks.load import Load, percentiles
from benchmarks.process import running
from server.pb.swiftrec.v1 import encoder_pb2

_CASES = [(front, hop) for front in ("threads", "aio") for hop in (False, True)]


def fronts(repeats: int, requests: int, in_flight: tuple[int, ...] = (1, 16, 64, 256)) -> None:
    """Measure every case in turn, `repeats` times, the server on one core and the load on the others."""
    cores = sorted(os.sched_getaffinity(0))
    data = encoder_pb2.EncodeRequest(texts=["a good western for a rainy evening"]).SerializeToString()
    found: dict[tuple[str, bool, int], list[tuple[float, float, float]]] = {}
    for _ in range(repeats):
        for front, hop in _CASES:
            with running("benchmarks.echo", "--front", front, *(["--hop"] * hop), cores={cores[0]}) as server:
                os.sched_setaffinity(0, set(cores[1:]) or {cores[0]})
                load = Load(server.address)
                load.closed([data] * 500, 16)
                for many in in_flight:
                    before = server.cpu_s()
                    rows = load.closed([data] * (requests if many > 1 else requests // 4), many)
                    cpu_us = 1e6 * (server.cpu_s() - before) / len(rows.done)
                    shown = percentiles(rows.latencies())
                    found.setdefault((front, hop, many), []).append((cpu_us, shown["p50_ms"], shown["p99_ms"]))
                load.close()
    os.sched_setaffinity(0, set(cores))
    sys.stdout.write("front    hop   in flight  CPU us/request (lowest to highest)   p50 ms   p99 ms\n")
    for (front, hop, many), seen in found.items():
        cpu, p50, p99 = (sorted(column) for column in zip(*seen, strict=True))
        sys.stdout.write(
            f"{front:8s} {'yes' if hop else 'no':4s} {many:9d} {statistics.median(cpu):10.0f}"
            f" ({cpu[0]:.0f} to {cpu[-1]:.0f}) {statistics.median(p50):15.2f} {statistics.median(p99):8.2f}\n"
        )
