"""`swiftrec bench null-server`: the real server with models that cost nothing, so that only serving is left."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from swiftrec.server.addresses import join_address
from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import MANIFEST, RANKER, Manifest
from swiftrec.server.models.session import Session
from swiftrec.server.signals import stop_on_signals


class NullModelSettings(ServerSettings):
    """Run the server with models that return zeros after a fixed time; accepts all flags of swiftrec serve.

    Use it to measure serving without models, or a server of known capacity. Prints its address.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench null-server")

    service_ms: float = Field(0.0, ge=0, description="time of a model for a batch of any size")
    held_ms: float = Field(0.0, ge=0, description="additional time after warm-up, to imitate a model that became slow")


class NullSession:
    """A session that returns zeros [batch, width] after a fixed time without holding the GIL."""

    held_s = 0.0

    def __init__(self, width: int, service_s: float) -> None:
        self._width, self._service_s = width, service_s

    @classmethod
    def of(cls, path: Path, service_s: float) -> Self:
        """Instead of the encoder or ranker at `path` in a bundle, with vectors of the same width."""
        manifest = Manifest.model_validate_json((path.parent / MANIFEST).read_bytes())
        return cls(manifest.dimensions if path.name == RANKER else manifest.encoder_dimensions, service_s)

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Zeros, one row for each row of the feeds."""
        if self._service_s or self.held_s:
            time.sleep(self._service_s + self.held_s)
        rows = len(next(iter(feeds.values())))
        return np.zeros((rows, self._width), dtype=np.float32)


def null_model_app(settings: NullModelSettings) -> App:
    """The server with null sessions."""

    def open_session(path: Path, _device: str, _threads: int) -> Session:
        return NullSession.of(path, settings.service_ms / 1e3)

    return App(settings, open_session=open_session)


def run(settings: NullModelSettings) -> int:
    """Serve until SIGTERM."""
    app = null_model_app(settings)
    stop = stop_on_signals(app)
    app.start()
    NullSession.held_s = settings.held_ms / 1e3
    address, metrics = join_address(settings.host, app.port), join_address(settings.metrics_host, app.metrics_port)
    sys.stdout.write(f"null-server on {address}, metrics on {metrics}\n")
    sys.stdout.flush()
    stop.wait()
    app.stop()
    return 0
