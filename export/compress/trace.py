"""Stage `onnx`: encoder and ranker as ONNX graphs in fp32, the encoder fused for BERT."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import onnx
import torch
from optimum.onnxruntime import ORTOptimizer
from optimum.onnxruntime.configuration import OptimizationConfig
from torch import Tensor, nn
from transformers import AutoConfig

from export.errors import GateError
from export.stage import Job
from export.train.distil import load_student
from export.train.encoder import load_tokenizer
from export.train.ranker import LastUser
from export.train.teacher import load_teacher

_OPSET = 17


def run(job: Job, out: Path) -> None:
    """Write traced.onnx (unfused), encoder.fp32.onnx, ranker.onnx, tokenizer.json and fusion.json."""
    plan, student, teacher = job.settings.plan, load_student(job), load_teacher(job.folder("finetune"))
    layers = student.trunk.config.num_hidden_layers
    traced = out / "traced.onnx"
    with job.progress("trace and fuse", 3) as step:
        ids = torch.ones(2, 3, dtype=torch.int64)  # any ids that every vocabulary has
        _trace(student, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, "vectors", traced)
        step()
        checkpoint = job.folder("data") / "checkpoint"
        counts = fuse(traced, checkpoint, out / "encoder.fp32.onnx")
        check_fusion(counts, layers)
        step()
        vectors = torch.zeros(2, 3, teacher.projection.out_features)
        kinds, mask = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)
        _trace(
            LastUser(teacher.ranker),
            {"vectors": vectors, "kinds": kinds, "mask": mask},
            "users",
            out / "ranker.onnx",
        )
        step()
    load_tokenizer(checkpoint, plan.max_tokens).save(out / "tokenizer.json")
    (out / "fusion.json").write_text(json.dumps({"layers": layers, "operators": counts}))


def check_fusion(counts: dict[str, int], layers: int) -> None:
    """Refuse a graph in which ONNX Runtime's BERT fusion did not match every layer: such a graph is silently slow.

    Raises:
        GateError: names the operator, the count that is needed and the count found.
    """
    wanted = {"EmbedLayerNormalization": 1, "Attention": layers, "SkipLayerNormalization": 2 * layers}
    for operator, number in wanted.items():
        if counts.get(operator, 0) != number:
            raise GateError(f"fusion: {operator} is there {counts.get(operator, 0)} times, needs {number}")
    gelus = counts.get("BiasGelu", 0) + counts.get("FastGelu", 0)
    if gelus != layers:
        raise GateError(f"fusion: BiasGelu or FastGelu is there {gelus} times, needs {layers}")


def _trace(module: nn.Module, inputs: dict[str, Tensor], output: str, path: Path) -> None:
    """Export with a free batch size and length."""
    axes = {name: {0: "batch", 1: "length"} for name in inputs} | {output: {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's remarks on shapes that the parity gate settles
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )


def fuse(traced: Path, checkpoint: Path, target: Path, *, separate: bool = False) -> dict[str, int]:
    """Optimise with optimum (ONNX Runtime's transformer fusions, level 2); return the count of each operator.

    With `separate` query, key and value keep MatMuls of their own, which the int8 kernels can take.
    """
    for name in ("optimum", "onnxruntime"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options = OptimizationConfig(
        optimization_level=2,
        disable_embed_layer_norm_fusion=False,  # optimum leaves it off unless it is asked for
        use_multi_head_attention=separate,
    )
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        optimiser = ORTOptimizer([traced], AutoConfig.from_pretrained(checkpoint, local_files_only=True))
        optimiser.optimize(options, save_dir=scratch, file_suffix="fused")
        shutil.move(Path(scratch) / f"{traced.stem}_fused.onnx", target)
    return dict(Counter(node.op_type for node in onnx.load(target).graph.node))
