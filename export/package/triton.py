"""A Triton model repository beside the bundle, of the same graphs, for those who leave for Triton.

Triton batches requests of one shape: its clients tokenise with the bundle's tokenizer.json and pad to lengths of their
own choice. https://docs.nvidia.com/deeplearning/triton-inference-server (model_configuration, model_repository).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as config_pb

from server.models.bundle import Bundle

COMPLETE = "ranker/config.pbtxt"
_MAX_BATCH = 64
_QUEUE_US = 0  # a request never waits for company: those that are there go together


def write_repository(bundle: Bundle, folder: Path) -> Path:
    """Write `folder`/<model>/{config.pbtxt, 1/model.onnx}, a model for each variant and the ranker; return `folder`."""
    if (folder / COMPLETE).exists():
        return folder
    scratch = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    width = bundle.manifest.dimensions
    try:
        for name, file in bundle.manifest.variants.items():
            _model(scratch, encoder_config(f"encoder_{name}", width), bundle.folder / file)
        _model(scratch, ranker_config(width), bundle.folder / "ranker.onnx")
        scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


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
    """The first dimension, the batch, is Triton's own and not named."""
    return config_pb.ModelConfig(
        name=name,
        platform="onnxruntime_onnx",
        max_batch_size=_MAX_BATCH,
        input=[config_pb.ModelInput(name=n, data_type=kind, dims=dims) for n, (kind, dims) in inputs.items()],
        output=[config_pb.ModelOutput(name=output, data_type=config_pb.TYPE_FP32, dims=[width])],
        dynamic_batching=config_pb.ModelDynamicBatching(max_queue_delay_microseconds=_QUEUE_US),
    )


def _model(repository: Path, config: config_pb.ModelConfig, graph: Path) -> None:
    folder = repository / config.name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    try:
        os.link(graph, folder / "1" / "model.onnx")  # the same bytes, no second copy
    except OSError:
        shutil.copyfile(graph, folder / "1" / "model.onnx")
