"""`swiftrec bench teacher-serve`: the PyTorch teacher behind the same gRPC server.

Its batches are whole steps, up to the server's limits: with a cost model in which padding costs nothing, texts are not
separated by length. Server, tokenizer and catalogue are the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from swiftrec.server.addresses import join_address
from swiftrec.server.app import App
from swiftrec.server.batching.cost_model import CostModel
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import find_bundle, load_bundle
from swiftrec.server.models.session import Session
from swiftrec.server.signals import stop_on_signals

if TYPE_CHECKING:
    from torch import Tensor, nn

    from swiftrec.export.stages.runner import Job

_KEEP = 0.99


class TeacherServeSettings(ServerSettings):
    """The server with the PyTorch teacher of a bundle, batches as they come. Takes every flag of the server."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench teacher-serve")

    smart: bool = Field(False, description="group texts by length, as the server does for the student")


class TorchSession:
    """A PyTorch module in the place of an ONNX session.

    Args:
        run: arrays by name -> the output.
    """

    def __init__(self, run: Callable[[dict[str, Tensor]], Tensor]) -> None:
        self._run = run

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run the module."""
        import torch

        with torch.inference_mode():
            found: NDArray[np.float32] = self._run({k: torch.from_numpy(v) for k, v in feeds.items()}).numpy()
        return found


class FlatCost(CostModel):
    """A cost model to which every row costs the same, whatever its length: then padding is free."""

    def __init__(self) -> None:
        super().__init__()
        self._typical = 16.0

    def row_s(self, _length: int) -> float:
        """Seconds that one more row costs."""
        return super().row_s(round(self._typical))

    def crowd_s(self, _length: int) -> float:
        """Seconds for each pair of rows."""
        return super().crowd_s(round(self._typical))

    def observe(self, jobs: int, length: int, seconds: float) -> None:
        """Learn what is typical."""
        self._typical = _KEEP * self._typical + (1.0 - _KEEP) * length
        super().observe(jobs, length, seconds)


def run(settings: TeacherServeSettings) -> int:
    """Serve until SIGTERM."""
    encoder, ranker = _modules(settings.bundle[0])

    def open_session(path: Path, _device: str, _threads: int) -> Session:
        if path.name == "ranker.onnx":
            return TorchSession(lambda feeds: ranker(feeds["vectors"], feeds["kinds"], feeds["mask"]))
        return TorchSession(lambda feeds: encoder(feeds["input_ids"], feeds["attention_mask"]))

    app = App(settings, open_session=open_session)
    stop = stop_on_signals(app)
    app.start()
    with app.registry.use() as engine:
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
        RuntimeError: the stages or the extra export are not there.
    """
    try:
        import torch

        from swiftrec.export.models.one_pass import one_pass_teacher
        from swiftrec.export.models.ranker import LastUser
        from swiftrec.export.models.teacher import load_teacher
    except ImportError as error:
        raise RuntimeError(f"the teacher needs the extra export ({error.name} is missing): make setup") from None
    job = _job(bundle)
    if not (job.folder("finetune") / "teacher.json").exists():
        raise RuntimeError(f"{job.folder('finetune')}: no teacher: run make export")
    torch.set_num_threads(1)
    teacher = load_teacher(job.folder("finetune"))
    return one_pass_teacher(job), LastUser(teacher.ranker).eval()


def _job(bundle: Path) -> Job:
    from swiftrec.export.config import ExportSettings
    from swiftrec.export.stages.runner import Job

    name, folder = load_bundle(bundle).manifest.name, find_bundle(bundle)
    return Job(ExportSettings(name=name, artifacts=folder.parent.parent, _cli_parse_args=[]))
