"""Stage `quantise`: int8 in forms whose answer for a text does not depend on the texts beside it.

ONNX Runtime's dynamic int8 takes one activation scale over the whole batch, so it is no candidate. Static scales (QDQ)
and block-wise weights (MatMulNBits) keep a row's result its own; the invariance check measures it all the same, since
block-wise kernels were seen to change with the batch at some block sizes.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from optimum.onnxruntime import AutoQuantizationConfig

from export.compress.trace import fuse
from export.data.phrases import Texts
from export.stage import Job
from server.models.encoder import EncoderModel
from server.models.session import open_session
from server.models.tokenizer import Tokenizer

_CALIBRATION_TEXTS = 256
_MEASURED_TEXTS = 256
_BATCH = 16
_ROUNDS = 5
MAX_INVARIANCE = 1e-4  # largest difference of a vector's entries, alone against in a batch
MIN_COSINE = 0.999  # mean cosine to fp32
MIN_SPEEDUP = 1.05  # below it the smaller precision is not worth a second file


@dataclass(frozen=True, slots=True)
class Candidate:
    """What was measured of one encoder graph; speeds in texts per second and core, one thread, this machine."""

    name: str
    precision: str
    megabytes: float
    texts_per_s: float
    ms_batch1: float
    speedup: float
    cosine: float
    invariance: float
    kept: bool
    reason: str


def run(job: Job, out: Path) -> None:
    """Write candidates.json and, if one is worth it, encoder.int8.onnx."""
    source, data = job.folder("onnx"), job.folder("data")
    rng = np.random.default_rng(job.settings.seed)
    rows = Tokenizer.load(source / "tokenizer.json", job.settings.plan.max_tokens).encode(Texts.load(data).all)
    picked = [rows[n] for n in rng.permutation(len(rows))[: _CALIBRATION_TEXTS + _MEASURED_TEXTS]]
    with (
        tempfile.TemporaryDirectory(dir=out) as scratch,
        job.progress("quantise and measure", 3 + _ROUNDS) as step,
    ):
        paths = {"fp32": source / "encoder.fp32.onnx"}
        fused = Path(scratch) / "separate.onnx"
        fuse(source / "traced.onnx", data / "checkpoint", fused, separate=True)
        step()
        paths["static"] = _static(fused, picked[:_CALIBRATION_TEXTS])
        step()
        paths["blockwise"] = _blockwise(fused)
        step()
        candidates = _measure(paths, picked[-_MEASURED_TEXTS:], step)
        kept = [c for c in candidates if c.kept and c.name != "fp32"]
        if kept:
            best = max(kept, key=lambda c: c.texts_per_s)
            paths[best.name].replace(out / "encoder.int8.onnx")
            job.console.print(f"  int8 ({best.name}): {best.speedup:.2f}x fp32, cosine {best.cosine:.5f}")
        else:
            job.console.print("  no int8: " + "; ".join(f"{c.name} {c.reason}" for c in candidates if c.name != "fp32"))
    chosen = max(kept, key=lambda c: c.texts_per_s).name if kept else None
    (out / "candidates.json").write_text(
        json.dumps({"int8": chosen, "candidates": [asdict(c) for c in candidates]}, indent=1)
    )


class _Calibration(CalibrationDataReader):  # type: ignore[misc] # onnxruntime ships no types
    def __init__(self, rows: list[list[int]]) -> None:
        self._feeds: Iterator[dict[str, NDArray[np.int64]]] = (
            {"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)), np.int64)} for row in rows
        )

    def get_next(self) -> dict[str, NDArray[np.int64]] | None:
        return next(self._feeds, None)


def _static(fused: Path, calibration: list[list[int]]) -> Path:
    """Static QDQ with MinMax calibration, types per instruction set as optimum's configuration has them."""
    target = fused.with_name("static.onnx")
    config = AutoQuantizationConfig.avx512_vnni(is_static=True, per_channel=True)
    quantize_static(
        fused,
        target,
        _Calibration(calibration),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        per_channel=config.per_channel,
        activation_type=config.activations_dtype,
        weight_type=config.weights_dtype,
        # The fused graph's own operators have no shape inference; every tensor between them is float.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    return target


def _blockwise(fused: Path) -> Path:
    """8-bit weights in blocks of 32 with int8 activations scaled per row and block."""
    target = fused.with_name("blockwise.onnx")
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.ERROR)
    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4, bits=8)
    quantiser = MatMulNBitsQuantizer(onnx.load(fused), algo_config=config)
    quantiser.process()
    quantiser.model.save_model_to_file(str(target))
    return target


def _measure(paths: dict[str, Path], rows: list[list[int]], step: Callable[[], None]) -> list[Candidate]:
    """Measure all candidates round by round, so that a slow moment of the machine hits each of them."""
    models = {name: EncoderModel(open_session(path)) for name, path in paths.items()}
    rows = sorted(rows, key=len)
    batched = {name: _sweep(model, rows, _BATCH) for name, model in models.items()}  # warms up, too
    alone = {name: _sweep(model, rows, 1) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    single: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(_ROUNDS):
        for name, model in models.items():
            seconds[name].append(_timed(model, rows, _BATCH))
            single[name].append(_timed(model, rows, 1))
        step()
    return [
        _judge(
            name,
            path,
            texts_per_s=len(rows) / float(np.median(seconds[name])),
            ms_batch1=1e3 * float(np.median(single[name])) / len(rows),
            speedup=float(np.median(np.divide(seconds["fp32"], seconds[name]))),
            cosine=float((alone[name] * alone["fp32"]).sum(1).mean()),
            invariance=max(_difference(alone[name], batched[name]), _mixed(models[name], rows, alone[name])),
        )
        for name, path in paths.items()
    ]


def _judge(
    name: str,
    path: Path,
    *,
    texts_per_s: float,
    ms_batch1: float,
    speedup: float,
    cosine: float,
    invariance: float,
) -> Candidate:
    reason = ""
    if invariance > MAX_INVARIANCE:
        reason = f"depends on the batch: {invariance:.1e}, at most {MAX_INVARIANCE:.0e}"
    elif cosine < MIN_COSINE:
        reason = f"cosine to fp32 {cosine:.4f}, at least {MIN_COSINE}"
    elif name != "fp32" and speedup < MIN_SPEEDUP:
        reason = f"{speedup:.2f}x fp32 on this machine, at least {MIN_SPEEDUP}"
    return Candidate(
        name=name,
        precision="fp32" if name == "fp32" else "int8",
        megabytes=round(path.stat().st_size / 1e6, 1),
        texts_per_s=round(texts_per_s, 1),
        ms_batch1=round(ms_batch1, 3),
        speedup=round(speedup, 3),
        cosine=cosine,
        invariance=invariance,
        kept=not reason,
        reason=reason,
    )


def _sweep(model: EncoderModel, rows: list[list[int]], size: int) -> NDArray[np.float32]:
    return np.array([v for n in range(0, len(rows), size) for v in model.run(rows[n : n + size])])


def _timed(model: EncoderModel, rows: list[list[int]], size: int) -> float:
    started = time.perf_counter()
    _sweep(model, rows, size)
    return time.perf_counter() - started


def _difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.abs(a - b).max())


def _mixed(model: EncoderModel, rows: list[list[int]], alone: NDArray[np.float32]) -> float:
    """Largest difference when short and long texts share a batch, so that most of it is padding."""
    batches = -(-len(rows) // _BATCH)
    order = np.argsort(np.arange(len(rows)) % batches, kind="stable")  # every batch holds all lengths
    return _difference(_sweep(model, [rows[n] for n in order], _BATCH), alone[order])
