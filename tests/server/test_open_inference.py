"""The Open Inference Protocol with Triton's clients: inputs, outputs and errors."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2 as tritonclient_grpc
from tritonclient.grpc import service_pb2_grpc
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from swiftrec.server.app import App
from swiftrec.server.models.bundle import Bundle, load_bundle
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2, encoder_pb2_grpc, recommender_pb2
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import Event, RecommendRequest
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.conftest import ROOT
from tests.server.support import bundles
from tests.server.support.process import serving
from tests.server.support.secure import connected
from tests.server.support.secure import serving as serving_app
from tests.until import LONG


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
        command = [sys.executable, "-m", "tests.server.support.triton_clients"]
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


def test_both_protocols_give_the_same_results(
    triton: service_pb2_grpc.GRPCInferenceServiceStub, channel: grpc.Channel, recommender: RecommenderServiceStub
) -> None:
    texts = [b"a good western", b"films about the sea"]
    answer = triton.ModelInfer(text_input(*texts), timeout=10)
    native = encoder_pb2_grpc.EncoderServiceStub(channel).Encode(
        encoder_pb2.EncodeRequest(texts=[t.decode() for t in texts])
    )
    assert answer.raw_output_contents[0] == native.vectors
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
        (text_input(b"a\x00b"), "input 'TEXT' element 0: must not contain a NUL"),
        (text_input(b""), "input 'TEXT' element 0: must not be empty"),
        (text_input("\u200b \ufeff".encode()), "input 'TEXT' element 0: must have a visible character"),
        (text_input(b"x" * 2001), "input 'TEXT' element 0: at most 2000 characters"),
    ],
)
def test_invalid_text_is_refused_by_name(
    triton: service_pb2_grpc.GRPCInferenceServiceStub, request_message: pb.ModelInferRequest, said: str
) -> None:
    code, details = refusal(triton, request_message)
    assert code == "INVALID_ARGUMENT"
    assert said in details


def test_invalid_bytes_are_refused_by_name(triton: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
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
def test_invalid_k_is_refused_by_name(
    triton: service_pb2_grpc.GRPCInferenceServiceStub, k: list[int], code: str
) -> None:
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
def test_invalid_parameter_is_refused_by_name(
    triton: service_pb2_grpc.GRPCInferenceServiceStub, name: str, parameter: pb.InferParameter, said: str
) -> None:
    request = text_input(b"x")
    request.parameters[name].CopyFrom(parameter)
    code, details = refusal(triton, request)
    assert (code, said in details) == ("INVALID_ARGUMENT", True)


def test_invalid_outputs_and_shared_memory_are_refused(triton: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
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


_RENAMED = {"1": "text:film", "2": "id:7", "3": "id:text:film", "4": " id"}


@pytest.fixture(scope="module")
def prefixed_channel(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A server whose catalogue has ids that begin with the prefixes."""
    folder = bundles.copy(bundle, tmp_path_factory.mktemp("renamed") / "1")
    bundles.rename_items(folder, _RENAMED)
    bundles.seal(folder, 1)
    with serving_app(load_bundle(Path(folder))) as app, connected(app) as opened:
        yield opened


def history(*elements: str) -> tritonclient_grpc.ModelInferRequest:
    request = tritonclient_grpc.ModelInferRequest(model_name="recommender")
    given = request.inputs.add(name="HISTORY", datatype="BYTES", shape=(1, len(elements)))
    given.contents.bytes_contents.extend(element.encode() for element in elements)
    return request


def ranked(prefixed_channel: grpc.Channel, *elements: str) -> bytes:
    return bytes(
        GRPCInferenceServiceStub(prefixed_channel).ModelInfer(history(*elements), timeout=LONG).raw_output_contents[0]
    )


@pytest.mark.parametrize(
    ("element", "event"),
    [
        ("50", Event(item_id="50")),
        ("id:50", Event(item_id="50")),
        ("id:text:film", Event(item_id="text:film")),
        ("id:id:7", Event(item_id="id:7")),
        ("id:7", Event(item_id="7")),
        ("id:id:text:film", Event(item_id="id:text:film")),
        ("id: id", Event(item_id=" id")),
        ("text:film", Event(text="film")),
        ("text:Toy Story (1995)", Event(text="Toy Story (1995)")),
        ("text:id:7", Event(text="id:7")),
        ("text:text:film", Event(text="text:film")),
    ],
)
def test_tensor_element_equals_the_event_of_the_native_protocol(
    prefixed_channel: grpc.Channel, element: str, event: Event
) -> None:
    requested = RecommendRequest(history=[event, Event(item_id="100")])
    answer = RecommenderServiceStub(prefixed_channel).Recommend(requested, timeout=LONG)
    assert not answer.unknown_item_ids
    assert ranked(prefixed_channel, element, "100") == packed(*[item.item_id.encode() for item in answer.items])


def test_text_and_item_id_of_the_same_letters_have_different_results(prefixed_channel: grpc.Channel) -> None:
    assert ranked(prefixed_channel, "text:film") != ranked(prefixed_channel, "id:text:film")


@pytest.mark.parametrize(
    ("element", "said"),
    [
        ("id:", "input 'HISTORY' element 1: must not be empty, got 'id:'"),
        ("text:", "input 'HISTORY' element 1: must not be empty"),
        ("id:a\0b", "input 'HISTORY' element 1: must not contain a NUL character"),
    ],
)
def test_prefix_without_a_value_is_refused(prefixed_channel: grpc.Channel, element: str, said: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ranked(prefixed_channel, "50", element)
    assert isinstance(caught.value, grpc.Call)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, said)


def test_configuration_explains_the_prefix_of_ids(prefixed_channel: grpc.Channel) -> None:
    request = tritonclient_grpc.ModelConfigRequest(name="recommender")
    config = GRPCInferenceServiceStub(prefixed_channel).ModelConfig(request, timeout=LONG).config
    assert "'id:'" in config.parameters["HISTORY"].string_value


_INPUTS = {"TEXT": ("encoder", "BYTES"), "QUERY": ("recommender", "BYTES"), "HISTORY": ("recommender", "BYTES")}


_INPUTS |= {"K": ("recommender", "INT32")}


_MOST_ROWS = 256


@dataclass
class Sent:
    """One input as a client sends it."""

    name: str
    is_raw: bool
    values: list[bytes] | list[int]
    shape: tuple[int, ...]
    datatype: str

    def request(self, *, times: int = 1) -> pb.ModelInferRequest:
        """The request, with the input repeated `times` times."""
        request = pb.ModelInferRequest(model_name=_INPUTS[self.name][0])
        for _ in range(times):
            given = request.inputs.add(name=self.name, datatype=self.datatype, shape=self.shape)
            if self.is_raw:
                request.raw_input_contents.append(b"".join(map(_raw, self.values)))
            elif _INPUTS[self.name][1] == "BYTES":
                given.contents.bytes_contents.extend(self.values)
            else:
                given.contents.int_contents.extend(self.values)
        return request


def _raw(value: bytes | int) -> bytes:
    return struct.pack("<i", value) if isinstance(value, int) else struct.pack("<I", len(value)) + value


def sent(name: str, *, is_raw: bool, rows: int = 1) -> Sent:
    """A good one."""
    datatype = _INPUTS[name][1]
    return Sent(name, is_raw, [b"x"] * rows if datatype == "BYTES" else [5] * rows, (rows, 1), datatype)


def _shaped(*shape: int) -> Callable[[Sent], pb.ModelInferRequest]:
    def made(entry: Sent) -> pb.ModelInferRequest:
        entry.shape = shape
        return entry.request()

    return made


def _of_type(datatype: str) -> Callable[[Sent], pb.ModelInferRequest]:
    def made(entry: Sent) -> pb.ModelInferRequest:
        entry.datatype = datatype
        return entry.request()

    return made


def _valued(*values: bytes | int) -> Callable[[Sent], pb.ModelInferRequest]:
    def made(entry: Sent) -> pb.ModelInferRequest:
        entry.values = list(values)  # type: ignore[assignment] # of one type
        return entry.request()

    return made


def _nan(entry: Sent) -> pb.ModelInferRequest:
    request = entry.request()
    if entry.is_raw:
        request.raw_input_contents[0] = struct.pack("<f", float("nan"))
        request.inputs[0].datatype = "FP32"
    else:
        request.inputs[0].contents.Clear()
        request.inputs[0].contents.fp32_contents.append(float("nan"))
    return request


def _both(entry: Sent) -> pb.ModelInferRequest:
    request = entry.request()
    other = sent(entry.name, is_raw=not entry.is_raw).request()
    request.raw_input_contents.extend(other.raw_input_contents)
    request.inputs[0].contents.MergeFrom(other.inputs[0].contents)
    return request


_FAULTS: dict[str, Callable[[Sent], pb.ModelInferRequest]] = {
    "negative shape": _shaped(-1, 1),
    "negative shapes that multiply to the count": _shaped(-1, -1),
    "overflowing shape": _shaped(2**63 - 1, 1),
    "shape that wraps to the count": _shaped(2**62, 4),
    "no dimension": _shaped(),
    "too few dimensions": _shaped(1),
    "too many dimensions": _shaped(1, 1, 1),
    "zero rows": lambda entry: sent(entry.name, is_raw=entry.is_raw, rows=0).request(),
    "too many rows": lambda entry: sent(entry.name, is_raw=entry.is_raw, rows=_MOST_ROWS + 1).request(),
    "fewer elements than the shape says": _shaped(2, 1),
    "more elements than the shape says": lambda entry: Sent(
        entry.name,
        entry.is_raw,
        entry.values * 2,
        (1, 1),
        entry.datatype,
    ).request(),
    "another type": _of_type("FP64"),
    "no type": _of_type(""),
    "NaN": _nan,
    "twice": lambda entry: entry.request(times=2),
    "typed and raw": _both,
}


_OF_TEXTS: dict[str, Callable[[Sent], pb.ModelInferRequest]] = {
    "NUL": _valued(b"a\0b"),
    "not UTF-8": _valued(b"\xff\xfe"),
    "too long": _valued(b"x" * 2_001),
    "blank": _valued(b"  "),
    "invisible": _valued("\u200b\ufeff".encode()),
}


_OF_NUMBERS: dict[str, Callable[[Sent], pb.ModelInferRequest]] = {
    "zero": _valued(0),
    "negative": _valued(-(2**31)),
    "too large": _valued(1_001),
}


def _cases() -> list[tuple[str, bool, str]]:
    actual = []
    for name, (_, datatype) in _INPUTS.items():
        faults = [*_FAULTS, *(_OF_TEXTS if datatype == "BYTES" else _OF_NUMBERS)]
        actual += [(name, is_raw, fault) for is_raw in (False, True) for fault in faults]
    return actual


@pytest.mark.parametrize(("name", "is_raw", "fault"), _cases())
def test_invalid_input_is_refused_by_name(channel: grpc.Channel, name: str, is_raw: bool, fault: str) -> None:
    make = (_FAULTS | _OF_TEXTS | _OF_NUMBERS)[fault]
    with pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(make(sent(name, is_raw=is_raw)), timeout=10)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert name in (caught.value.details() or "")
    bad = error_details_pb2.BadRequest()
    assert rpc_status.from_call(caught.value).details[0].Unpack(bad)
    assert bad.field_violations[0].field == name


@pytest.mark.parametrize("is_raw", [False, True])
@pytest.mark.parametrize("name", _INPUTS)
def test_valid_input_is_answered(channel: grpc.Channel, name: str, is_raw: bool) -> None:
    """Without this the test above would also pass where everything is refused."""
    request = sent(name, is_raw=is_raw, rows=2).request()
    answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert {output.shape[0] for output in answer.outputs} == {2}
