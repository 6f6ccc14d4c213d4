"""Each input of both models, typed and raw, with each thing that can be wrong: refused, and the input is named."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

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
        """The request, with the input so many times."""
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
    def made(one: Sent) -> pb.ModelInferRequest:
        one.shape = shape
        return one.request()

    return made


def _of_type(datatype: str) -> Callable[[Sent], pb.ModelInferRequest]:
    def made(one: Sent) -> pb.ModelInferRequest:
        one.datatype = datatype
        return one.request()

    return made


def _valued(*values: bytes | int) -> Callable[[Sent], pb.ModelInferRequest]:
    def made(one: Sent) -> pb.ModelInferRequest:
        one.values = list(values)  # type: ignore[assignment] # of one type
        return one.request()

    return made


def _nan(one: Sent) -> pb.ModelInferRequest:
    request = one.request()
    if one.is_raw:
        request.raw_input_contents[0] = struct.pack("<f", float("nan"))
        request.inputs[0].datatype = "FP32"
    else:
        request.inputs[0].contents.Clear()
        request.inputs[0].contents.fp32_contents.append(float("nan"))
    return request


def _both(one: Sent) -> pb.ModelInferRequest:
    request = one.request()
    other = sent(one.name, is_raw=not one.is_raw).request()
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
    "zero rows": lambda one: sent(one.name, is_raw=one.is_raw, rows=0).request(),
    "too many rows": lambda one: sent(one.name, is_raw=one.is_raw, rows=_MOST_ROWS + 1).request(),
    "fewer elements than the shape says": _shaped(2, 1),
    "more elements than the shape says": lambda one: Sent(
        one.name,
        one.is_raw,
        one.values * 2,
        (1, 1),
        one.datatype,
    ).request(),
    "another type": _of_type("FP64"),
    "no type": _of_type(""),
    "NaN": _nan,
    "twice": lambda one: one.request(times=2),
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
    found = []
    for name, (_, datatype) in _INPUTS.items():
        faults = [*_FAULTS, *(_OF_TEXTS if datatype == "BYTES" else _OF_NUMBERS)]
        found += [(name, is_raw, fault) for is_raw in (False, True) for fault in faults]
    return found


@pytest.mark.parametrize(("name", "is_raw", "fault"), _cases())
def test_wrong_input_is_refused_by_name(channel: grpc.Channel, name: str, is_raw: bool, fault: str) -> None:
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
def test_good_input_is_answered(channel: grpc.Channel, name: str, is_raw: bool) -> None:
    """Without this the test above would also pass where everything is refused."""
    request = sent(name, is_raw=is_raw, rows=2).request()
    answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert {output.shape[0] for output in answer.outputs} == {2}
