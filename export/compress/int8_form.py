"""Which integer types the int8 graphs use: the most precise form of those that are fastest on this processor."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from swiftrec.export.compress.equivalence import alone, mean_cosine
from swiftrec.export.compress.int8 import FORMS, Form, observe, quantise_bert
from swiftrec.export.compress.measurement import MeasurementTexts
from swiftrec.export.compress.throughput import Encoder, measure_throughput
from swiftrec.export.gates import GATES
from swiftrec.server.models.networks import EncoderModel
from swiftrec.server.models.session import open_session

_NEAR_SHARE = 0.95  # a form whose speed is this share of the fastest counts as fast


def fastest_form(fused: Path, dimensions: int, texts: MeasurementTexts, step: Callable[[], None]) -> tuple[Form, str]:
    """Quantise one BERT in every form and compare them; the best form, and the comparison in words.

    Sums that overflow on this processor lower the cosine.

    Args:
        fused: the student's fused fp32 graph.
        dimensions: length of the ranker's half of its vectors.
        texts: to calibrate, compare and time with.
        step: called after each of `throughput.rounds()` rounds.
    """
    ranges, rows = observe(fused, texts.calibration), texts.compared[::4]
    exact = alone(EncoderModel(open_session(fused)), rows)
    with tempfile.TemporaryDirectory() as scratch:
        models: dict[str, Encoder] = {}
        for form in FORMS:
            path = Path(scratch) / f"{form.name}.onnx"
            quantise_bert(fused, path, ranges, form)
            models[form.name] = EncoderModel(open_session(path))
        throughput = measure_throughput(models, texts.tokenizer, texts.timed[::4], step)
    cosines = {name: mean_cosine(alone(model, rows), exact, dimensions) for name, model in models.items()}
    speeds = {name: pace.texts_per_s for name, pace in throughput.items()}
    best = choose_form(cosines, speeds)
    rows_in_words = ", ".join(f"{name} {speeds[name]:.0f} texts/s cosine {cosines[name]:.5f}" for name in models)
    return Form(best), f"int8 form {best}: {rows_in_words}"


def choose_form(cosines: Mapping[str, float], speeds: Mapping[str, float]) -> str:
    """The most precise form within 5 % of the fastest of those that pass the gate, or of all if none does.

    Args:
        cosines: form -> mean cosine to the fp32 graph.
        speeds: form -> texts per second.
    """
    passing = [name for name in cosines if cosines[name] >= GATES.min_cosine] or list(cosines)
    fastest = max(speeds[name] for name in passing)
    return max((name for name in passing if speeds[name] >= _NEAR_SHARE * fastest), key=cosines.__getitem__)
