"""A Triton model repository with the bundle's graphs.

Its encoders return the same vectors as `EncoderService.Encode`, which the ranker reads: their graphs are cut to these.

Triton batches requests of equal shape, so its clients tokenise with the bundle's tokenizer.json and pad to a few
lengths. https://docs.nvidia.com/deeplearning/triton-inference-server (model_configuration, model_repository).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
from google.protobuf import text_format
from onnx import helper, numpy_helper
from tritonclient.grpc import model_config_pb2 as config_pb

from swiftrec.export.compress.onnx_file import save_graph
from swiftrec.export.folders import recover, replace_folder
from swiftrec.server.models.bundle import RANKER, Bundle

SOURCE = "bundle.json"  # names the bundle that the repository was made from; Triton reads folders only
_MAX_BATCH = 64
_WHOLE = "vectors.both_halves"  # the output of the bundle's graph, which Triton does not return
_QUEUE_US = 0  # a request does not wait for others; those in the queue are batched


def write_repository(bundle: Bundle, folder: Path) -> Path:
    """Write `folder`/<model>/{config.pbtxt, 1/model.onnx}, a model for each variant and the ranker; return `folder`.

    A repository of the same bundle is kept; one of another bundle with this version number is replaced.
    """
    scratch = folder.with_name(f".{folder.name}.partial")
    recover(scratch, folder)
    source = _source(bundle)
    if _source_of(folder) == source:
        return folder
    shutil.rmtree(scratch, ignore_errors=True)
    width = bundle.manifest.dimensions
    try:
        for name, file in bundle.manifest.variants.items():
            graph = _add_model(scratch, encoder_config(f"encoder_{name}", width), bundle.folder / file)
            if bundle.manifest.sentence_dimensions:
                _cut_output(graph, width)
        _add_model(scratch, ranker_config(width), bundle.folder / RANKER)
        (scratch / SOURCE).write_text(source, encoding="utf-8")
        replace_folder(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _source(bundle: Bundle) -> str:
    """Name, version and the manifest's SHA-256, as JSON."""
    manifest = bundle.manifest
    sha256 = hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()
    return json.dumps({"name": manifest.name, "version": manifest.version, "manifest": sha256})


def _source_of(folder: Path) -> str:
    """The repository's record of its bundle; empty if it has none."""
    try:
        return (folder / SOURCE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def encoder_config(name: str, width: int) -> config_pb.ModelConfig:
    """Token ids and mask to unit vectors of `width`."""
    inputs = {"input_ids": (config_pb.TYPE_INT64, [-1]), "attention_mask": (config_pb.TYPE_INT64, [-1])}
    return _config(name, inputs, "vectors", width)


def ranker_config(width: int) -> config_pb.ModelConfig:
    """Vectors of `width`, their kinds and a mask to user vectors."""
    inputs = {
        "vectors": (config_pb.TYPE_FP32, [-1, width]),
        "kinds": (config_pb.TYPE_INT64, [-1]),
        "mask": (config_pb.TYPE_INT64, [-1]),
    }
    return _config("ranker", inputs, "users", width)


def _config(name: str, inputs: dict[str, tuple[int, list[int]]], output: str, width: int) -> config_pb.ModelConfig:
    """A model's configuration; Triton adds the first dimension, the batch."""
    return config_pb.ModelConfig(
        name=name,
        platform="onnxruntime_onnx",
        max_batch_size=_MAX_BATCH,
        input=[config_pb.ModelInput(name=n, data_type=kind, dims=dims) for n, (kind, dims) in inputs.items()],
        output=[config_pb.ModelOutput(name=output, data_type=config_pb.TYPE_FP32, dims=[width])],
        dynamic_batching=config_pb.ModelDynamicBatching(max_queue_delay_microseconds=_QUEUE_US),
    )


def _add_model(repository: Path, config: config_pb.ModelConfig, graph: Path) -> Path:
    """Write the model's folder; return its graph, a link to the bundle's if the file system has links."""
    folder = repository / str(config.name)
    target = folder / "1" / "model.onnx"
    target.parent.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    try:
        os.link(graph, target)  # the same bytes, no second copy
    except OSError:
        shutil.copyfile(graph, target)
    return target


def _cut_output(path: Path, width: int) -> None:
    """Replace the encoder's graph at `path` by one that returns the first `width` entries, which the ranker reads."""
    model = onnx.load(path)
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = [_WHOLE if name == output.name else name for name in node.output]
    ends = {"cut.start": 0, "cut.end": width, "cut.axis": 1}
    model.graph.initializer.extend(numpy_helper.from_array(np.array([n]), name) for name, n in ends.items())
    model.graph.node.append(helper.make_node("Slice", [_WHOLE, *ends], [output.name]))
    output.type.tensor_type.shape.dim[1].dim_value = width
    path.unlink()  # it may be a link to the bundle's
    save_graph(model, path)
