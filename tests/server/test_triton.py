"""The Open Inference Protocol: NVIDIA's clients as they are, and every input that is wrong."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from swiftrec.server.app import App
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2, encoder_pb2_grpc, recommender_pb2
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.conftest import ROOT
from tests.server.process import serving


@pytest.fixture(scope="session")
def triton(channel: grpc.Channel) -> service_pb2_grpc.GRPCInferenceServiceStub:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def packed(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def text_input(
    *values: bytes, name: str = "TEXT", shape: tuple[int, ...] | None = None, datatype: str = "BYTES"
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="encoder")
    request.inputs.add(name=name, datatype=datatype, shape=shape or (len(values), 1))
    request.raw_input_contents.append(packed(*values))
    return request


def refusal(triton: service_pb2_grpc.GRPCInferenceServiceStub, request: pb.ModelInferRequest) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        triton.ModelInfer(request, timeout=10)
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code().name, caught.value.details() or ""


def test_nvidias_clients_work_unchanged(bundle: Bundle) -> None:
    with serving(bundle.folder.parent) as server:
        command = [sys.executable, "-m", "tests.server.triton_clients"]
        command += [f"127.0.0.1:{server.port}", bundle.manifest.name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.endswith("all clients passed\n"), done.stderr


def test_perf_analyzer_measures_the_encoder(app: App) -> None:
    program = shutil.which("perf_analyzer")
    if program is None:
        pytest.skip("no perf_analyzer here: its wheel needs glibc 2.38")
    command = [program, "-m", "encoder", "-i", "grpc", "-u", f"127.0.0.1:{app.port}", "--string-length", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_protocols_give_the_same_answer(
    triton: service_pb2_grpc.GRPCInferenceServiceStub, channel: grpc.Channel, recommender: RecommenderServiceStub
) -> None:
    texts = [b"a good western", b"films about the sea"]
    answer = triton.ModelInfer(text_input(*texts), timeout=10)
    own = encoder_pb2_grpc.EncoderServiceStub(channel).Encode(
        encoder_pb2.EncodeRequest(texts=[t.decode() for t in texts])
    )
    assert answer.raw_output_contents[0] == own.vectors
    request = pb.ModelInferRequest(model_name="recommender")
    request.inputs.add(name="QUERY", datatype="BYTES", shape=(1, 1)).contents.bytes_contents.append(texts[0])
    request.inputs.add(name="HISTORY", datatype="BYTES", shape=(1, 2)).contents.bytes_contents.extend(
        [b"50", b"text:Toy Story (1995)"]
    )
    ranked = triton.ModelInfer(request, timeout=10)
    events = [recommender_pb2.Event(item_id="50"), recommender_pb2.Event(text="Toy Story (1995)")]
    mine = recommender.Recommend(recommender_pb2.RecommendRequest(query=texts[0].decode(), history=events), timeout=10)
    assert ranked.raw_output_contents[0] == packed(*[item.item_id.encode() for item in mine.items])
    assert np.frombuffer(ranked.raw_output_contents[1], "<f4") == pytest.approx([i.score for i in mine.items], abs=1e-4)


@pytest.mark.parametrize(
    ("request_message", "said"),
    [
        (text_input(b"x", name="OTHER"), "unexpected inference input 'OTHER' for model 'encoder'"),
        (text_input(b"x", datatype="FP32"), "'TEXT' data-type is 'FP32', but model 'encoder' expects 'BYTES'"),
        (
            text_input(b"x", shape=(1,)),
            "unexpected shape for input 'TEXT' for model 'encoder'. Expected [-1,1], got [1]",
        ),
        (text_input(b"x", shape=(-1, 1)), "unexpected shape for input 'TEXT'"),
        (text_input(b"x", shape=(2**62, 1)), "input 'TEXT'"),
        (text_input(b"x", shape=(0, 1)), "'TEXT'"),
        (text_input(b"x", shape=(2, 1)), "expected 2 strings for inference input 'TEXT', got 1"),
        (text_input(b"x", b"y", shape=(1, 1)), "for inference input 'TEXT', expecting 1"),
        (text_input(*[b"x"] * 257), "'TEXT': inference request batch-size must be 1..256"),
        (text_input(b"\xff\xfe"), "input 'TEXT' element 0 is not UTF-8"),
        (text_input(b"a\x00b"), "input 'TEXT' element 0: must not hold a NUL"),
        (text_input(b""), "input 'TEXT' element 0: must not be empty"),
        (text_input("\u200b \ufeff".encode()), "input 'TEXT' element 0: must have a visible character"),
        (text_input(b"x" * 2001), "input 'TEXT' element 0: at most 2000 characters"),
    ],
)
def test_wrong_text_is_refused_by_name(
    triton: service_pb2_grpc.GRPCInferenceServiceStub, request_message: pb.ModelInferRequest, said: str
) -> None:
    code, details = refusal(triton, request_message)
    assert code == "INVALID_ARGUMENT"
    assert said in details


def test_wrong_bytes_are_refused_by_name(triton: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    request = text_input(b"hello")
    for cut, said in ((2, "incomplete string length indicator"), (6, "incomplete string data")):
        request.raw_input_contents[0] = packed(b"hello")[:cut]
        code, details = refusal(triton, request)
        assert (code, said in details, "'TEXT'" in details) == ("INVALID_ARGUMENT", True, True)
    request.raw_input_contents[0] = packed(b"hello")
    request.inputs[0].contents.bytes_contents.append(b"hello")
    assert "contents field must not be specified" in refusal(triton, request)[1]
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.append(float("nan"))
    assert "input 'TEXT': BYTES belongs in bytes_contents" in refusal(triton, request)[1]
    request = text_input(b"x")
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(packed(b"x"))
    assert refusal(triton, request)[1] == "input 'TEXT' already exists in request"
    request.raw_input_contents.append(b"")
    assert refusal(triton, request)[1] == "raw_input_contents: expected 2, one for each input of 'encoder', got 3"
    assert "input 'TEXT' is missing" not in refusal(triton, pb.ModelInferRequest(model_name="recommender"))[1]
    assert "input 'TEXT' is missing" in refusal(triton, pb.ModelInferRequest(model_name="encoder"))[1]


@pytest.mark.parametrize(
    ("k", "code"), [([0], "INVALID_ARGUMENT"), ([1001], "INVALID_ARGUMENT"), ([-1], "INVALID_ARGUMENT")]
)
def test_wrong_k_is_refused_by_name(triton: service_pb2_grpc.GRPCInferenceServiceStub, k: list[int], code: str) -> None:
    request = pb.ModelInferRequest(model_name="recommender")
    request.inputs.add(name="K", datatype="INT32", shape=(1, 1)).contents.int_contents.extend(k)
    assert refusal(triton, request)[0] == code
    assert "input 'K' element 0" in refusal(triton, request)[1]
    request.inputs[0].ClearField("contents")
    request.raw_input_contents.append(b"\x01\x00")
    assert "unexpected total byte size 2 for input 'K'" in refusal(triton, request)[1]


@pytest.mark.parametrize(
    ("name", "parameter", "said"),
    [
        ("triton_secret", pb.InferParameter(int64_param=1), "reserved"),
        ("timeout", pb.InferParameter(string_param="1"), "'timeout'"),
        ("timeout", pb.InferParameter(int64_param=-1), "timeout"),
        ("timeout", pb.InferParameter(double_param=float("nan")), "'timeout'"),
        ("priority", pb.InferParameter(int64_param=-1), "priority"),
        ("priority", pb.InferParameter(double_param=float("nan")), "'priority'"),
        ("bundle", pb.InferParameter(string_param="a\0b"), "bundle"),
        ("priority", pb.InferParameter(uint64_param=10), "priority"),
        ("bundle", pb.InferParameter(int64_param=1), "'bundle'"),
        ("exclude_history", pb.InferParameter(int64_param=1), "'exclude_history'"),
    ],
)
def test_wrong_parameter_is_refused_by_name(
    triton: service_pb2_grpc.GRPCInferenceServiceStub, name: str, parameter: pb.InferParameter, said: str
) -> None:
    request = text_input(b"x")
    request.parameters[name].CopyFrom(parameter)
    code, details = refusal(triton, request)
    assert (code, said in details) == ("INVALID_ARGUMENT", True)


def test_wrong_outputs_and_shared_memory_are_refused(triton: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    request = text_input(b"x")
    request.outputs.add(name="OTHER")
    assert "unexpected inference output 'OTHER'" in refusal(triton, request)[1]
    request.outputs[0].name = "EMBEDDING"
    request.outputs.add(name="EMBEDDING")
    assert refusal(triton, request) == ("INVALID_ARGUMENT", "output 'EMBEDDING' already exists in request")
    del request.outputs[1]
    for k in (0, -1):
        request.outputs[0].parameters["classification"].int64_param = k
        assert "output 'EMBEDDING': classification" in refusal(triton, request)[1]
    del request.outputs[0].parameters["classification"]
    request.outputs[0].parameters["shared_memory_region"].string_param = "x"
    assert refusal(triton, request)[0] == "UNIMPLEMENTED"
    del request.outputs[:]
    request.inputs[0].parameters["shared_memory_region"].string_param = "x"
    assert refusal(triton, request)[0] == "UNIMPLEMENTED"


def test_unknown_model_and_version_are_refused(triton: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    request = text_input(b"x")
    request.model_name = "other"
    assert refusal(triton, request) == ("NOT_FOUND", "Request for unknown model: 'other' is not found")
    request.model_name, request.model_version = "encoder", "999"
    assert refusal(triton, request)[0] == "NOT_FOUND"
    for version in ("-1", "0", "1.5", "x", "9" * 30, "\0", "\u0663"):
        request.model_version = version
        code, details = refusal(triton, request)
        assert (code, "model version" in details) == ("INVALID_ARGUMENT", True)
