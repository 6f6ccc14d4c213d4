"""Mutations: of fields, by the message's own descriptor, and of bytes. The same seed and number give the same case."""

from __future__ import annotations

import random
import string
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import DecodeError, Message

from tests.server.fuzz.seeds import CHANGES, STREAMS, packed, seeds, weighted

Metadata = tuple[tuple[str, str | bytes], ...]

_INTEGERS: Final = (0, 1, -1, 2, 9, 10, 255, 257, 1000, 1001, 2**24, 2**31 - 1, -(2**31), 2**32 - 1, 2**53)
_WIDE: Final = (2**62, 2**63 - 1, -(2**63), 2**64 - 1, 10**13, 9_300_000_000_000_000)
_FLOATS: Final = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e308, 5e-324)
_WORDS: Final = (
    *("", " ", "\0", "a\0b", "\u200b", "\ufeff", "\u202e", "😀" * 40, "é" * 900, "x" * 2_001, "y" * 20_000, "9" * 30),
    *("text:", "text: ", "TEXT", "QUERY", "HISTORY", "K", "EMBEDDING", "SCORE", "ITEM_ID", "BYTES", "FP32", "INT32"),
    *(
        "encoder",
        "recommender",
        ".encoder",
        "..recommender",
        "../../etc/passwd",
        "nan",
        "-1",
        "1",
        "0",
        "%s%n",
        "genre",
    ),
)
_PARAMETERS: Final = (
    *("timeout", "priority", "bundle", "exclude_history", "triton_enable_empty_final_response", "triton_x"),
    *("classification", "shared_memory_region", "version", "log_file", "log_error", "trace_level", "sequence_id", ""),
)
_RANGES: Final = {
    Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    Field.CPPTYPE_UINT32: (0, 2**32 - 1),
    Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    Field.CPPTYPE_UINT64: (0, 2**64 - 1),
}


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent: one message, or several to a stream."""

    number: int
    method: str
    messages: tuple[bytes, ...]
    metadata: Metadata = ()

    def __str__(self) -> str:
        shown = " ".join(data.hex() or "-" for data in self.messages)
        return f"case {self.number}: {self.method} metadata {self.metadata!r} bytes {shown}"


class Cases:
    """Case after case.

    Args:
        seed: of all of them.
        served: the name of the bundle that serves, which no case loads or unloads.
    """

    def __init__(self, seed: int, served: str = "movielens-quick") -> None:
        self._seed, self._served = seed, served
        self._seeds = seeds(served)
        self._methods = list(self._seeds)
        self._weights = weighted(self._methods)
        self._splices = [entry.SerializeToString() for sample in self._seeds.values() for entry in sample]

    def case(self, number: int) -> Case:
        """The case of that number."""
        rng = random.Random(self._seed * 1_000_003 + number)
        method = rng.choices(self._methods, self._weights)[0]
        count = rng.randint(1, 4) if method in STREAMS else 1
        messages = tuple(self._message(rng, method) for _ in range(count))
        return Case(number, method, messages, _metadata(rng) if rng.random() < 0.2 else ())

    def _message(self, rng: random.Random, method: str) -> bytes:
        message = type(seed := rng.choice(self._seeds[method]))()
        message.CopyFrom(seed)
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            mutate_field(rng, message)
        data = message.SerializeToString()
        for _ in range(rng.choice((0, 0, 1, 2))):
            data = mutate_bytes(rng, data, rng.choice(self._splices))
        return self._harmless(type(message), data) if method in CHANGES else data

    def _harmless(self, kind: type[Message], data: bytes) -> bytes:
        try:
            message: Any = kind.FromString(data)
        except DecodeError:
            return data
        if message.model_name != self._served:
            return data
        message.model_name += "-other"
        return bytes(message.SerializeToString())


def mutate_field(rng: random.Random, message: Message) -> None:
    """Change one field of the message or of a message inside it."""
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field: Any = rng.choice(fields)
    inner = field.type == Field.TYPE_MESSAGE
    value: Any = getattr(message, field.name)
    if inner and field.message_type.GetOptions().map_entry:
        _mutate_map(rng, value, field)
    elif field.is_repeated:
        _mutate_list(rng, value, field)
    elif inner:
        mutate_field(rng, value)
    elif rng.random() < 0.1:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _scalar(rng, field))


def _mutate_map(rng: random.Random, value: Any, field: Field) -> None:  # noqa: ANN401 (a map of any message)
    if value and rng.random() < 0.2:
        value.clear()
        return
    name = rng.choice((*_PARAMETERS, *list(value)[:3]))
    mutate_field(rng, value[name])


def _mutate_list(rng: random.Random, value: Any, field: Field) -> None:  # noqa: ANN401 (a list of any kind)
    inner = field.type == Field.TYPE_MESSAGE
    action = rng.randrange(6)
    if action == 0 and value:
        del value[rng.randrange(len(value))]
    elif action == 1 and value:
        value.extend([value[rng.randrange(len(value))]] * rng.choice((1, 2, 300 if len(value) < 50 else 1, 1)))
    elif action == 2 and rng.random() < 0.3:
        del value[:]
    elif inner:
        mutate_field(rng, value[rng.randrange(len(value))] if value and rng.random() < 0.8 else value.add())
    elif value and action == 3:
        value[rng.randrange(len(value))] = _scalar(rng, field)
    else:
        value.append(_scalar(rng, field))


def _scalar(rng: random.Random, field: Field) -> object:
    if field.cpp_type in _RANGES:
        low, high = _RANGES[field.cpp_type]
        return min(high, max(low, rng.choice((*_INTEGERS, *_WIDE, rng.randint(low, high)))))
    if field.type == Field.TYPE_STRING:
        return rng.choice((*_WORDS, "".join(rng.choices(string.printable, k=rng.randrange(40)))))
    if field.type == Field.TYPE_BYTES:
        return _bytes(rng)
    if field.type == Field.TYPE_BOOL:
        return rng.random() < 0.5
    return rng.choice(_FLOATS)


def _bytes(rng: random.Random) -> bytes:
    words = [rng.choice(_WORDS).encode() for _ in range(rng.randrange(4))]
    return rng.choice(
        (
            packed(*words),
            packed(*words)[: rng.randrange(8)],
            packed(b"\xff\xfe\xfd"),
            struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1))) * rng.randrange(1, 5),
            struct.pack("<f", rng.choice(_FLOATS[:3])),
            packed(b"x") * rng.choice((1, 2, 255, 257, 1_001)),
            rng.randbytes(rng.randrange(60)),
        )
    )


def _flip(rng: random.Random, data: bytearray, other: bytes) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _replace(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _truncate(rng: random.Random, data: bytearray, other: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def _insert(rng: random.Random, data: bytearray, other: bytes) -> None:
    index = rng.randrange(len(data) + 1)
    data[index:index] = rng.choice((b"\xff\xfe", b"\x80" * 11, b"\xc0\xaf", rng.randbytes(rng.randint(1, 12))))


def _splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


def _repeat(rng: random.Random, data: bytearray, other: bytes) -> None:
    start = rng.randrange(len(data))
    data[start:start] = data[start : start + rng.randint(1, 40)] * rng.choice((2, 10, 100))


_BYTES: Final[tuple[Callable[[random.Random, bytearray, bytes], None], ...]] = (
    *(_flip, _flip, _replace, _truncate, _insert, _splice, _repeat),
)


def mutate_bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Flip, replace, cut, insert, splice with the end of `other`, or repeat a piece."""
    if not data:
        return rng.randbytes(rng.randrange(12))
    changed = bytearray(data)
    rng.choice(_BYTES)(rng, changed, other)
    return bytes(changed)


def _metadata(rng: random.Random) -> Metadata:
    """Pairs that gRPC's own client lets through."""
    visible = string.ascii_letters + string.digits + " !#$%&'()*+-./:<=>?@[]^_`{|}~"

    def pair() -> tuple[str, str | bytes]:
        size = rng.choice((0, 1, 16, 64, 65, 700))
        if rng.random() < 0.3:
            return f"x-{rng.randrange(9)}-bin", rng.randbytes(size)
        value = "".join(rng.choices(visible, k=size)).strip()
        return rng.choice(("x-request-id", "traceparent", "authorization", f"x-{rng.randrange(9)}")), value

    return tuple(pair() for _ in range(rng.randint(1, 4)))


def kinds(served: str = "movielens-quick") -> Mapping[str, type[Message]]:
    """Request type of every method."""
    return {method: type(sample[0]) for method, sample in seeds(served).items()}
