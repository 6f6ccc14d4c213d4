"""A model whose answers are of no use is refused before it serves, by the name of its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import RANKER
from swiftrec.server.models.session import Session
from tests.server import small


class Broken:
    """A model whose last answer of each batch has `value` in the place of a number; without one, a number too few."""

    def __init__(self, model: Session, value: float | None) -> None:
        self._model, self._value = model, value

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Vectors, of which one is broken."""
        vectors = self._model.run(feeds)
        if self._value is None:
            return vectors[:, 1:]
        vectors[-1, 2] = self._value
        return vectors


@pytest.mark.parametrize("is_ranker", [True, False])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.nan, "NaN or infinity"),
        (np.inf, "NaN or infinity"),
        (-np.inf, "NaN or infinity"),
        (None, r"\[1, .\] for 1 rows of .* dimensions"),
    ],
)
def test_model_without_numbers_is_refused_at_warm_up_by_name(
    tmp_path: Path, value: float | None, said: str, is_ranker: bool
) -> None:
    folder = small.write_bundle(tmp_path / "1")

    def open_session(path: Path, device: str, threads: int) -> Session:
        model = small.open_tiny(path, device, threads)
        return Broken(model, value) if (path.name == RANKER) is is_ranker else model

    engine = small.engine(folder, open_session=open_session)
    name = RANKER if is_ranker else engine.bundle.encoder("cpu", None).name
    with pytest.raises(BundleError, match=rf"^{folder / name}: the model answers {said}: export it again$"):
        engine.start()


def test_sound_models_warm_up(tmp_path: Path) -> None:
    small.engine(small.write_bundle(tmp_path / "1")).start()


class Interrupted:
    """A model that loses the CPU in every second run."""

    def __init__(self, model: Session, clock: list[float]) -> None:
        self._model, self._clock, self._runs = model, clock, 0

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Vectors, a millisecond or ten seconds later."""
        self._runs += 1
        self._clock[0] += 10.0 if self._runs % 2 else 1e-3
        return self._model.run(feeds)


def test_run_that_loses_the_cpu_is_not_learned(tmp_path: Path) -> None:
    """Otherwise a version that was loaded on a busy machine would refuse its first calls."""
    folder, clock = small.write_bundle(tmp_path / "1"), [0.0]

    def open_session(path: Path, device: str, threads: int) -> Session:
        return Interrupted(small.open_tiny(path, device, threads), clock)

    engine = small.engine(folder, open_session=open_session)
    engine._clock = lambda: clock[0]
    engine.start()
    for cost in (engine.stages.encoder.cost, engine.stages.ranker.cost):
        assert cost(1, 4) < 0.01
