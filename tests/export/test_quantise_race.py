"""Speed and texts of the measurement: encoders side by side, texts of every length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from swiftrec.export.compress.calibration_texts import calibration_texts, joined_texts
from swiftrec.export.compress.outliers import split_neurons
from swiftrec.export.compress.throughput import Encoder, Pace, race, rounds
from swiftrec.export.stages.quantise import choose, describe
from swiftrec.export.variants import Variant
from swiftrec.server.models.tokenizer import Tokenizer

_TEXTS = ["a b", "b", "c a b a", "d", "a c"]


class Busy:
    """Takes `work` seconds for each batch by its own clock, and remembers the batches."""

    def __init__(self, work: float) -> None:
        self._work, self.sizes = work, set[int]()
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def run(self, jobs: Sequence[Sequence[int]], /) -> list[NDArray[np.float32]]:
        self.sizes.add(len(jobs))
        self.now += self._work
        return [np.ones(4, np.float32) for _ in jobs]


def tokenizer() -> Tokenizer:
    backend = Backend(WordLevel({"a": 0, "b": 1, "c": 2, "d": 3}, unk_token="d"))
    backend.pre_tokenizer = Whitespace()
    return Tokenizer(backend, 128)


def test_encoder_that_does_less_is_faster() -> None:
    steps: list[int] = []
    slow, fast = Busy(3.0), Busy(1.0)
    clocks = {"slow": slow.clock, "fast": fast.clock}
    paces = race({"slow": slow, "fast": fast}, tokenizer(), _TEXTS * 4, lambda: steps.append(1), clocks)
    assert len(steps) == rounds()
    assert paces["fast"].speedup(paces["slow"]) == 3.0
    assert paces["fast"].texts_per_s > paces["slow"].texts_per_s
    assert paces["fast"].ms_batch1 < paces["slow"].ms_batch1


def test_every_text_is_measured_alone_and_the_best_batch_is_used() -> None:
    encoder = Busy(1.0)  # a batch costs the same whatever its size
    paces = race({"one": encoder}, tokenizer(), _TEXTS * 4, lambda: None, {"one": encoder.clock})
    assert len(paces["one"].alone_ms) == len(_TEXTS) * 4
    assert encoder.sizes >= {1, 4, 16}


def test_what_runs_on_a_gpu_is_timed_by_its_clock() -> None:
    ticks = iter(range(100_000))
    encoders: dict[str, Encoder] = {"gpu": Busy(0.0), "cpu": Busy(0.0)}
    paces = race(encoders, tokenizer(), _TEXTS * 4, lambda: None, {"gpu": lambda: float(next(ticks))})
    assert paces["gpu"].seconds == [1.0] * (rounds() - 1)
    assert max(paces["cpu"].seconds) < 1.0  # of CPU


def test_speedup_is_the_median_of_rounds_so_one_slow_moment_does_not_count() -> None:
    slow, fast = Pace([2.0, 2.0, 9.0], 10, [1.0]), Pace([1.0, 1.0, 1.0], 10, [1.0])
    assert fast.speedup(slow) == 2.0
    assert fast.texts_per_s == 10.0


def test_range_has_the_slow_moment_that_the_median_leaves_out() -> None:
    slow, fast = Pace([2.0, 2.0, 9.0], 10, [1.0]), Pace([1.0, 1.0, 1.25], 10, [1.0])
    assert fast.texts_per_s_range == (8.0, 10.0)
    assert fast.speedup_range(slow) == (2.0, 7.2)


def test_joined_texts_have_every_length_from_3_to_60_words() -> None:
    lengths = [len(text.split()) for text in joined_texts(_TEXTS, 58, np.random.default_rng(0))]
    assert sorted(lengths) == list(range(3, 61))


def test_calibration_has_short_texts_and_long_ones() -> None:
    texts = calibration_texts(_TEXTS, 10, np.random.default_rng(0))
    assert len(texts) == 10
    assert set(texts[-5:]) == set(_TEXTS)
    assert max(len(text.split()) for text in texts) == 60


def test_neuron_far_beyond_the_others_is_written_several_times() -> None:
    high = np.ones(200, np.float32)
    high[7] = 4.5
    split = split_neurons(high)
    assert split.top == pytest.approx(1.0)
    assert split.neurons.tolist().count(7) == 5
    assert split.shifts[split.neurons == 7].tolist() == pytest.approx([0, 1, 2, 3, 4])
    assert len(split.neurons) == 204


def test_split_neuron_adds_up_to_its_gelu() -> None:
    """Saturated copies against the neuron itself; the bound is what `split_neurons` says."""

    def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
        value: NDArray[np.float64] = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return value

    x = np.linspace(-5, 20, 400)
    split = split_neurons(np.array([5.0] * 199 + [20.0], np.float32))
    shifts = split.shifts[split.neurons == 199]
    total = sum(np.minimum(gelu(x - shift), split.top) for shift in shifts)
    assert np.abs(total - gelu(x)).max() < 0.18
    clipped = np.minimum(gelu(x), split.top)  # negative control: saturation without copies
    assert np.abs(clipped - gelu(x)).max() > 10


@pytest.mark.parametrize(
    ("refused", "exception", "words"),
    [("", "", "batch 1e-07"), ("size 0.7", "", "REFUSED (size 0.7)"), ("", "size 0.7", "exception (size 0.7)")],
)
def test_line_of_a_variant_ends_with_its_verdict(refused: str, exception: str, words: str) -> None:
    shape = {"student": "bert3", "precision": "int8", "device": "cpu", "file": "x.onnx", "layers": 3, "hidden": 384}
    speed = {"texts_per_s_core": 300.0, "ms_batch1": 3.0, "speedup_vs_teacher_pytorch": 6.0}
    variant = Variant(
        name="bert3-int8",
        megabytes=18.3,
        cosine=0.9995,
        batch_invariance=1e-7,
        refused=refused,
        exception=exception,
        **shape,  # type: ignore[arg-type]
        **speed,  # type: ignore[arg-type]
    )
    assert describe(variant).endswith(words)


@pytest.mark.parametrize(
    ("cosines", "speeds", "best"),
    [
        ({"u8s8": 0.9995, "u8u8": 0.9995, "u8s7": 0.9988}, {"u8s8": 295, "u8u8": 163, "u8s7": 300}, "u8s8"),
        ({"u8s8": 0.9500, "u8u8": 0.9995, "u8s7": 0.9988}, {"u8s8": 295, "u8u8": 163, "u8s7": 280}, "u8s7"),
        ({"u8s8": 0.9500, "u8u8": 0.9700, "u8s7": 0.9600}, {"u8s8": 200, "u8u8": 200, "u8s7": 200}, "u8u8"),
    ],
    ids=["fast and precise", "sums overflow", "none passes"],
)
def test_form_is_chosen_by_speed_among_those_that_keep_the_vectors(
    cosines: dict[str, float], speeds: dict[str, float], best: str
) -> None:
    assert choose(cosines, speeds) == best
