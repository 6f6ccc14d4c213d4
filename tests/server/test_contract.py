"""The wire contract: a client built from the first published contract keeps working."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor

from swiftrec.server.pb.swiftrec.v1 import encoder_pb2, recommender_pb2
from tests.conftest import ROOT

# Every field, enum value and method of the contract as first published, one a line. Never edited.
_PUBLISHED = Path(__file__).with_name("contract_v1.txt").read_text().splitlines()
_LABELS = {FieldDescriptor.LABEL_OPTIONAL: "optional", FieldDescriptor.LABEL_REPEATED: "repeated"}
_TYPES = {number: name for name, number in vars(FieldDescriptor).items() if name.startswith("TYPE_")}


def contract(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """One line for each field, enum value and method of a proto file."""
    for message in file.message_type:
        for field in message.field:
            oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else "-"
            kind = field.type_name or _TYPES[field.type]
            yield f"field {message.name}.{field.name} = {field.number} {_LABELS[field.label]} {kind} oneof {oneof}"
    for enum in file.enum_type:
        for value in enum.value:
            yield f"enum {enum.name}.{value.name} = {value.number}"
    for service in file.service:
        for method in service.method:
            streams = f"{'stream ' * method.client_streaming}-> {'stream ' * method.server_streaming}"
            yield f"method {service.name}.{method.name} {method.input_type} {streams}{method.output_type}"


def current() -> list[descriptor_pb2.FileDescriptorProto]:
    """The proto files of the installed stubs."""
    files = (encoder_pb2.DESCRIPTOR, recommender_pb2.DESCRIPTOR)
    return [descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb) for file in files]


def missing(files: list[descriptor_pb2.FileDescriptorProto]) -> list[str]:
    """Lines of the published contract that these files do not have."""
    lines = {line for file in files for line in contract(file)}
    return [line for line in _PUBLISHED if line not in lines]


def test_every_published_field_keeps_its_name_number_and_type() -> None:
    assert missing(current()) == []


def test_published_contract_is_complete() -> None:
    assert len(_PUBLISHED) == len(set(_PUBLISHED)) > 60
    assert "field RecommendResponse.ignored = 2 repeated TYPE_STRING oneof -" in _PUBLISHED


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("name", "skipped"),
        ("number", 20),
        ("type", FieldDescriptor.TYPE_BYTES),
        ("label", FieldDescriptor.LABEL_OPTIONAL),
    ],
)
def test_change_of_a_published_field_is_found(attribute: str, value: str | int) -> None:
    encoder, recommender = current()
    response = next(message for message in recommender.message_type if message.name == "RecommendResponse")
    ignored = next(field for field in response.field if field.name == "ignored")
    setattr(ignored, attribute, value)
    assert missing([encoder, recommender]) == ["field RecommendResponse.ignored = 2 repeated TYPE_STRING oneof -"]


def test_deprecated_fields_name_their_successors() -> None:
    source = (ROOT / "proto" / "swiftrec" / "v1" / "recommender.proto").read_text()
    fields = recommender_pb2.RecommendResponse.DESCRIPTOR.fields_by_name
    assert [name for name, field in fields.items() if field.GetOptions().deprecated] == ["ignored"]
    assert "Use unknown_item_ids" in source
    assert fields["unknown_item_ids"].type == fields["ignored"].type


@pytest.mark.parametrize("file", current(), ids=lambda file: str(file.name).rpartition("/")[2])
def test_proto_options_name_the_go_and_java_packages(file: descriptor_pb2.FileDescriptorProto) -> None:
    assert file.options.go_package == "swiftrec/v1;swiftrecv1"
    assert (file.options.java_package, file.options.java_multiple_files) == ("swiftrec.v1", True)
