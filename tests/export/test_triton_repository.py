"""The Triton model repository of a bundle, and which of its encoders is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from onnx import TensorProto, helper, save
from tritonclient.grpc import model_config_pb2 as config_pb

from swiftrec.export.models.static import StaticEncoder
from swiftrec.export.report.triton_repository import write_repository
from swiftrec.export.stages.onnx import trace
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import Bundle, Manifest
from swiftrec.server.models.networks import EncoderModel
from swiftrec.server.models.session import open_session
from tests.server.support.bundles import tiny_manifest


@pytest.fixture
def manifest() -> Manifest:
    return tiny_manifest(
        version=4,
        dimensions=128,
        max_tokens=128,
        variants={name: f"encoder.{name}.onnx" for name in ("bert3-fp32", "bert3-int8")},
        default={"cpu": "bert3-int8", "cuda": "bert3-fp32"},
    )


def write_graphs(folder: Path, manifest: Manifest, mark: str = "") -> dict[str, str]:
    """Tiny graphs under the names that the manifest gives them, and the ranker's; model -> file."""
    graphs = {**manifest.variants, "ranker": "ranker.onnx"}
    folder.mkdir(exist_ok=True)
    for file in graphs.values():
        tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        save(helper.make_model(helper.make_graph([], f"{file}{mark}", [tensor], [tensor])), folder / file)
    return graphs


def test_triton_repository_parses_and_fits_the_graphs(tmp_path: Path, manifest: Manifest) -> None:
    graphs = write_graphs(tmp_path, manifest)
    repository = write_repository(Bundle(tmp_path, manifest), tmp_path / "triton")
    folders = sorted(path for path in repository.iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["encoder_bert3-fp32", "encoder_bert3-int8", "ranker"]
    for folder in folders:
        config = text_format.Parse((folder / "config.pbtxt").read_text(), config_pb.ModelConfig())
        assert config.name == folder.name
        assert config.platform == "onnxruntime_onnx"
        assert config.max_batch_size > 1
        assert config.HasField("dynamic_batching")
        source = tmp_path / graphs[folder.name.removeprefix("encoder_")]
        assert (folder / "1" / "model.onnx").read_bytes() == source.read_bytes()
    with pytest.raises(text_format.ParseError):
        text_format.Parse("no_such_field: 1", config_pb.ModelConfig())  # control


def test_triton_encoders_give_the_vectors_that_the_ranker_reads(tmp_path: Path, manifest: Manifest) -> None:
    """The bundle's graphs have both halves in one output; the repository's are cut to the first."""
    both = manifest.model_copy(update={"dimensions": 3, "sentence_dimensions": 2})
    write_graphs(tmp_path, both)
    torch.manual_seed(0)
    student = StaticEncoder(9, 4, 3, 2)
    torch.nn.init.normal_(student.table.weight)
    ids = torch.tensor([[2, 7, 5]])
    for file in both.variants.values():
        trace(student, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, "vectors", tmp_path / file)
    before = (tmp_path / "encoder.bert3-int8.onnx").read_bytes()
    repository = write_repository(Bundle(tmp_path, both), tmp_path / "triton")
    assert (tmp_path / "encoder.bert3-int8.onnx").read_bytes() == before
    config = text_format.Parse(
        (repository / "encoder_bert3-int8" / "config.pbtxt").read_text(), config_pb.ModelConfig()
    )
    assert list(config.output[0].dims) == [3]
    graph = repository / "encoder_bert3-int8" / "1" / "model.onnx"
    assert [output.shape for output in onnxruntime.InferenceSession(graph).get_outputs()] == [["batch", 3]]
    whole = EncoderModel(open_session(tmp_path / "encoder.bert3-int8.onnx")).run(ids.tolist())[0]
    cut = EncoderModel(open_session(graph)).run(ids.tolist())[0]
    assert whole.shape == (5,)
    np.testing.assert_array_equal(cut, whole[:3])


def test_triton_repository_of_a_deleted_bundle_with_the_same_version_is_replaced(
    tmp_path: Path, manifest: Manifest
) -> None:
    write_graphs(tmp_path / "deleted", manifest, "deleted")
    write_repository(Bundle(tmp_path / "deleted", manifest), tmp_path / "triton")
    again = manifest.model_copy(update={"export_key": "of other data"})
    write_graphs(tmp_path / "again", again)
    for _ in range(2):  # written, then kept
        graph = write_repository(Bundle(tmp_path / "again", again), tmp_path / "triton") / "ranker" / "1" / "model.onnx"
        assert graph.read_bytes() == (tmp_path / "again" / "ranker.onnx").read_bytes()
    (tmp_path / "again" / "ranker.onnx").unlink()  # so that a third repository cannot be written
    assert write_repository(Bundle(tmp_path / "again", again), tmp_path / "triton").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"deleted", "again", "triton"}


def test_incomplete_triton_repository_is_replaced(tmp_path: Path, manifest: Manifest) -> None:
    write_graphs(tmp_path / "bundle", manifest)
    (tmp_path / "triton" / "ranker").mkdir(parents=True)
    repository = write_repository(Bundle(tmp_path / "bundle", manifest), tmp_path / "triton")
    assert (repository / "encoder_bert3-int8" / "config.pbtxt").exists()


@pytest.mark.parametrize(
    ("device", "expected", "file"),
    [
        ("cpu", None, "encoder.bert3-int8.onnx"),
        ("cuda", None, "encoder.bert3-fp32.onnx"),
        ("cpu", "bert3-fp32", "encoder.bert3-fp32.onnx"),
        ("cpu", "fp32", "encoder.bert3-fp32.onnx"),
    ],
)
def test_variant_is_found_by_name_precision_or_device(
    tmp_path: Path, manifest: Manifest, device: str, expected: str | None, file: str
) -> None:
    assert Bundle(tmp_path, manifest).encoder(device, expected).name == file


def test_unknown_variant_is_refused_with_the_existing_names(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(BundleError, match=r"no encoder variant 'fp16': use one of bert3-fp32, bert3-int8"):
        Bundle(tmp_path, manifest).encoder("cpu", "fp16")
