"""`swiftrec bench contention`: how much a busy process slows down training.

The stage `finetune` spends its time in two kinds of operators: BERT over texts, and a small head over histories. Both
run here in child processes, alone and beside one busy loop in turn, with the threads and the waiting that the export
chooses and with OpenMP's default, which is the control. Nothing else may run on the machine meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import formatting
from swiftrec.export.threads import choose_threads

_BUSY_LOOP = "while True: pass"
_HEAD_WIDTH, _HEAD_ITEMS, _HEAD_BATCH, _HEAD_EVENTS = 128, 1_682, 32, 64  # those of the quick preset on MovieLens
WAITING = ("chosen", "OpenMP's default")
WORK = ("BERT over texts", "head")


class ContentionSettings(BaseSettings):
    """Measure how much a busy process slows down training.

    Use it after a change of the export's threads, on an otherwise idle machine. Prints a row for each kind of work.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench contention", cli_kebab_case=True)

    data: Path = Field(
        Path("artifacts/.stages/movielens-quick/data"),
        description="folder of the export stage data",
    )
    texts: int = Field(1_280, ge=64, description="number of texts that BERT encodes")
    steps: int = Field(30, ge=1, description="training steps of the head")
    rounds: int = Field(3, ge=1, description="number of rounds, each alone and with a busy process")


class Spent(NamedTuple):
    """Seconds by the clock, and of CPU."""

    wall: float
    cpu: float


def run(settings: ContentionSettings) -> int:
    """Measure and print the table."""
    cells, figures = [], {}
    measured = {(way, work): measure(settings, way, work) for way in WAITING for work in WORK}
    for (way, work), pairs in measured.items():
        wall = [busy.wall / quiet.wall for quiet, busy in pairs]
        cpu = [busy.cpu / quiet.cpu for quiet, busy in pairs]
        quiet_s = [quiet.wall for quiet, _ in pairs]
        cells.append([f"{work}, {way}", formatting.spread(quiet_s), formatting.spread(wall), formatting.spread(cpu)])
        figures[f"{work}, {way}"] = {"quiet_s": quiet_s, "wall_ratio": wall, "cpu_ratio": cpu}
    head = ["work, waiting", "alone, s", "with a busy loop, times", "CPU, times"]
    formatting.print_result(formatting.table(head, cells), {"contention": figures})
    return 0


def measure(settings: ContentionSettings, way: str, work: str) -> list[tuple[Spent, Spent]]:
    """The work alone and while another process is busy, once a round."""
    pairs = []
    for _ in range(settings.rounds):
        quiet = spend(settings, way, work)
        with busy_loops(1):
            pairs.append((quiet, spend(settings, way, work)))
    return pairs


@contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Processes that each keep a core busy."""
    loops = [subprocess.Popen([sys.executable, "-c", _BUSY_LOOP]) for _ in range(number)]  # noqa: S603
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def spend(settings: ContentionSettings, way: str, work: str) -> Spent:
    """Run the work in a separate process, since OpenMP reads its variables once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    if way == WAITING[0]:
        choose_threads(environment)
    size = settings.texts if work == WORK[0] else settings.steps
    command = [
        sys.executable,
        "-m",
        "swiftrec.benchmarks.microbenchmarks.contention",
        work,
        str(settings.data),
        str(size),
    ]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return Spent(*json.loads(printed))


def _work(work: str, data: Path, size: int) -> Spent:
    """The work of a child process: set up, then measure."""
    task = _bert_task(data, size) if work == WORK[0] else _head_task(size)
    next(task)  # loaded and warm
    wall, cpu = time.monotonic(), time.process_time()
    next(task)
    return Spent(time.monotonic() - wall, time.process_time() - cpu)


def _bert_task(data: Path, size: int) -> Iterator[None]:
    from swiftrec.export.data.text_variants import Texts, TextVariant  # torch is for the children only
    from swiftrec.export.data.token_store import TokenRows
    from swiftrec.export.models.backbone import Backbone
    from swiftrec.export.models.encoder import load_tokenizer

    texts = list(Texts.load(data).variants[TextVariant.FULL])
    rows = TokenRows(load_tokenizer(data / "checkpoint", 128), [texts[n % len(texts)] for n in range(size)])
    backbone = Backbone(data / "checkpoint", rows, layers=0)
    backbone(list(range(8)))
    yield
    backbone.encode_all()
    yield


def _head_task(steps: int) -> Iterator[None]:
    import torch

    torch.manual_seed(7)
    layer = torch.nn.TransformerEncoderLayer(_HEAD_WIDTH, 4, 2 * _HEAD_WIDTH, batch_first=True)
    items = torch.nn.Parameter(torch.randn(_HEAD_ITEMS, _HEAD_WIDTH) / _HEAD_WIDTH)
    optimiser = torch.optim.AdamW([*layer.parameters(), items])
    for n in range(steps + 1):
        positions = torch.randint(0, _HEAD_ITEMS, (_HEAD_BATCH, _HEAD_EVENTS))
        scores = layer(items[positions]) @ items.T
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(scores.flatten(0, 1), positions.flatten()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if n == 0:
            yield
    yield


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
