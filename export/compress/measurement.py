"""Size, speed and fidelity of the variants' graphs, and the gates that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from swiftrec.export.compress.calibration_texts import calibration_texts, joined_texts
from swiftrec.export.compress.equivalence import alone, invariance, mean_cosine
from swiftrec.export.compress.students import Student
from swiftrec.export.compress.throughput import Encoder, Throughput
from swiftrec.export.gates import GATES, Gate, at_most, smaller_precision
from swiftrec.export.schema.variant import Variant
from swiftrec.server.arrays import Vectors
from swiftrec.server.models.tokenizer import Tokenizer

TEACHER = "teacher"
"""Name of the PyTorch teacher among the encoders that are timed."""

_CALIBRATION_TEXTS = 256
_TIMED_TEXTS = 58  # joined texts, one of each length from 3 to 60 words
_SHORT_TEXTS = 58
_HALF = "fp16"


@dataclass(frozen=True, slots=True)
class MeasurementTexts:
    """The texts that all measurements share.

    Args:
        tokenizer: the server's.
        calibration: token ids to calibrate int8 with.
        compared: token ids whose vectors are compared.
        timed: texts whose encoding is timed.
    """

    tokenizer: Tokenizer
    calibration: list[list[int]]
    compared: list[list[int]]
    timed: list[str]

    @classmethod
    def draw(cls, texts: Sequence[str], tokenizer: Tokenizer, seed: int) -> Self:
        """Draw them from the texts of the data set."""
        rng = np.random.default_rng(seed)
        calibration = tokenizer.encode(calibration_texts(texts, _CALIBRATION_TEXTS, rng))
        timed = joined_texts(texts, _TIMED_TEXTS, rng)
        short = [texts[n] for n in rng.permutation(len(texts))[:_SHORT_TEXTS]]
        return cls(tokenizer, calibration, tokenizer.encode([*timed, *short]), timed)


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was measured of some variants, by name.

    Args:
        folder: of the graphs.
        throughput: of the timed variants and, as `TEACHER`, the PyTorch teacher.
        vectors: of `MeasurementTexts.compared`, one text at a time, [texts, both halves].
        invariance: largest difference of a vector's entries, alone and in a batch.
    """

    folder: Path
    throughput: Mapping[str, Throughput]
    vectors: Mapping[str, Vectors]
    invariance: Mapping[str, float]

    @classmethod
    def of_models(
        cls,
        folder: Path,
        models: Mapping[str, Encoder],
        throughput: Mapping[str, Throughput],
        rows: Sequence[list[int]],
        step: Callable[[], None],
    ) -> Self:
        """Measure the vectors of `rows`; `step` is called after each model."""
        vectors, differences = dict[str, Vectors](), dict[str, float]()
        for name, model in models.items():
            vectors[name] = alone(model, rows)
            differences[name] = invariance(model, rows, vectors[name])
            step()
        return cls(folder, throughput, vectors, differences)

    def fill(self, variant: Variant, student: Student) -> Variant:
        """The variant with its measurements and all gates of its graph; it is not judged yet."""
        exact = f"{variant.student}-fp32"
        update = {
            "megabytes": round(self._bytes(variant.file) / 1e6, 1),
            "cosine": mean_cosine(self.vectors[variant.name], self.vectors[exact], student.dimensions),
            "batch_invariance": self.invariance[variant.name],
            **self._speed(variant.name),
        }
        measured = variant.model_copy(update=update)
        gates = (*variant.graph_gates, *self._gates(measured, exact))
        return measured.model_copy(update={"graph_gates": gates})

    def _gates(self, variant: Variant, exact: str) -> list[Gate]:
        limit = GATES.max_invariance_half if variant.precision == _HALF else GATES.max_invariance
        judged = [at_most("batch invariance", variant.batch_invariance, limit)]
        if variant.precision == "fp32":
            return judged
        size = self._bytes(variant.file) / self._bytes(f"encoder.{exact}.onnx")
        speedup = None
        if variant.name in self.throughput and variant.device == "cpu":  # the fp32 graph is timed on the CPU
            speedup = self.throughput[variant.name].speedup(self.throughput[exact])
        return judged + smaller_precision(variant.cosine, size, speedup, is_static=not variant.layers)

    def _speed(self, name: str) -> dict[str, object]:
        """The variant's fields about speed; empty if it was not timed here."""
        if name not in self.throughput:
            return {}
        own, teacher = self.throughput[name], self.throughput[TEACHER]
        return {
            "texts_per_s_core": round(own.texts_per_s, 1),
            "ms_batch1": round(own.ms_batch1, 3),
            "speedup_vs_teacher_pytorch": round(own.speedup(teacher), 2),
            "texts_per_s_range": _rounded(own.texts_per_s_range, 1),
            "speedup_range": _rounded(own.speedup_range(teacher), 2),
        }

    def _bytes(self, file: str) -> int:
        return (self.folder / file).stat().st_size


def _rounded(ends: tuple[float, float], digits: int) -> tuple[float, float]:
    return round(ends[0], digits), round(ends[1], digits)
