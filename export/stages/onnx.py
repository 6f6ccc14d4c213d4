"""Stage `onnx`: every student and the ranker as ONNX graphs in fp32, the BERT students fused."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from optimum.onnxruntime import ORTOptimizer
from optimum.onnxruntime.configuration import OptimizationConfig
from torch import Tensor, nn
from transformers import PretrainedConfig

from swiftrec.export import gates
from swiftrec.export.compress.equivalence import difference
from swiftrec.export.compress.graph_rewriter import count_operators
from swiftrec.export.compress.onnx_file import save_graph
from swiftrec.export.compress.ranker_graphs import measure_ranker_parity, save_ranker, time_ranker
from swiftrec.export.compress.students import Student, graph_file, save_students, traced_file
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.job import Job
from swiftrec.export.models.encoder import TextEncoder, pad
from swiftrec.export.models.ranker import FastLastUser
from swiftrec.export.models.static import StaticEncoder
from swiftrec.export.models.teacher import load_teacher
from swiftrec.export.schema.models import RankerRecord
from swiftrec.export.stages.distil import load_students
from swiftrec.server.models.bundle import RANKER
from swiftrec.server.models.networks import EncoderModel
from swiftrec.server.models.session import open_session
from swiftrec.server.models.tokenizer import Tokenizer

_OPSET = 17
_PARITY_TEXTS = 256
_BATCH = 16


def run(job: Job, output: Path) -> None:
    """Write fused.<student>.onnx, students.json, ranker.onnx, ranker.json and tokenizer.json.

    For TensorRT also traced.<student>.onnx.

    Raises:
        GateError: the ranker's graph does not do what the PyTorch module does. A student's is refused in `quantise`.
    """
    plan, data = job.settings.plan, job.folder("data")
    tokenizer = Tokenizer.load(job.folder("distil") / "tokenizer.json", plan.max_tokens)
    tokenizer.save(output / "tokenizer.json")
    texts = Texts.load(data).all
    rows = tokenizer.encode(texts[:: -(-len(texts) // _PARITY_TEXTS)])
    modules = load_students(job)
    with job.progress("trace and fuse", 1 + len(modules)) as step:
        students = []
        for name, module in modules.items():
            students.append(_student(name, module, rows, output, keep_traced=job.settings.tensorrt))
            step()
        save_students(students, output)
        save_ranker(_ranker(job, output / RANKER), output)
        step()


def _ranker(job: Job, path: Path) -> RankerRecord:
    """Trace, check and time the teacher's ranker."""
    teacher = load_teacher(job.folder("finetune"))
    width, longest = teacher.projection.out_features, teacher.max_length  # not the preset's of a pretrained teacher
    parity = trace_ranker(path.stem, teacher.ranker, path, width, longest)
    ms, rate = time_ranker(path, width, longest)
    return RankerRecord(
        name=path.stem,
        file=path.name,
        megabytes=round(path.stat().st_size / 1e6, 2),
        parity=parity,
        ms_batch1=round(ms, 3),
        users_per_s_core=round(rate, 1),
        gates=(gates.ranker_parity(parity),),
    )


def trace_ranker(name: str, ranker: nn.Module, target: Path, width: int, longest: int) -> float:
    """Write the graph of a ranker of vectors of `width` and at most `longest` events; return its parity.

    Raises:
        GateError: the graph does not do what the PyTorch module does.
    """
    kinds, mask = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)
    inputs = {"vectors": torch.zeros(2, 3, width), "kinds": kinds, "mask": mask}
    trace(FastLastUser(ranker), inputs, "users", target)
    parity = measure_ranker_parity(ranker, target, width, longest)
    gates.require(name, gates.ranker_parity(parity))
    return parity


def _student(
    name: str, module: TextEncoder | StaticEncoder, rows: list[list[int]], output: Path, *, keep_traced: bool
) -> Student:
    """Trace, fuse and measure one student."""
    target = output / graph_file(name)
    ids = torch.ones(2, 3, dtype=torch.int64)  # any ids that every vocabulary has
    trace(module, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, "vectors", target)
    if isinstance(module, StaticEncoder):
        layers, hidden = 0, module.table.embedding_dim
        fusion = gates.static_fusion(count_operators(target))
    else:
        backbone = module.backbone
        layers, hidden = backbone.config.num_hidden_layers, backbone.config.hidden_size
        if keep_traced:
            shutil.copyfile(target, output / traced_file(name))
        fuse(target, backbone.config, target)
        fusion = gates.fusion(count_operators(target), layers)
    parity = gates.at_most("parity with PyTorch", measure_parity(module, target, rows), gates.GATES.max_parity)
    return Student(name, layers, hidden, module.dimensions, gates=(*fusion, parity))


def measure_parity(module: nn.Module, graph: Path, rows: Sequence[list[int]]) -> float:
    """Largest difference of a vector's entries between a PyTorch module and its graph."""
    model = EncoderModel(open_session(graph))
    batches = [list(rows[n : n + _BATCH]) for n in range(0, len(rows), _BATCH)]
    with torch.inference_mode():
        return max(difference(np.array(model.run(b)), module(*pad(b)).numpy()) for b in batches)


def trace(module: nn.Module, inputs: dict[str, Tensor], output: str, path: Path) -> None:
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
    save_graph(onnx.load(path), path)


def fuse(traced: Path, config: PretrainedConfig, target: Path) -> None:
    """Optimise with optimum: ONNX Runtime's transformer fusions, level 2."""
    for name in ("optimum", "onnxruntime"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options = OptimizationConfig(
        optimization_level=2,
        disable_embed_layer_norm_fusion=False,  # optimum leaves it off unless it is requested
    )
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        ORTOptimizer([traced], config).optimize(options, save_dir=scratch, file_suffix="fused")
        save_graph(onnx.load(next(Path(scratch).glob("*.onnx"))), target)
