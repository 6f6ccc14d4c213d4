"""Elements of the input HISTORY: texts, and item ids of every form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2 as triton
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from swiftrec.server.models.bundle import Bundle, load_bundle
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import Event, RecommendRequest
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.server import bundles
from tests.server.secure import connected, serving
from tests.server.test_triton import packed
from tests.until import LONG

_RENAMED = {"1": "text:film", "2": "id:7", "3": "id:text:film", "4": " id"}


@pytest.fixture(scope="module")
def channel(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A server whose catalogue has ids that begin with the prefixes."""
    folder = bundles.copy(bundle, tmp_path_factory.mktemp("renamed") / "1")
    bundles.rename_items(folder, _RENAMED)
    bundles.seal(folder, 1)
    with serving(load_bundle(Path(folder))) as app, connected(app) as opened:
        yield opened


def history(*elements: str) -> triton.ModelInferRequest:
    request = triton.ModelInferRequest(model_name="recommender")
    given = request.inputs.add(name="HISTORY", datatype="BYTES", shape=(1, len(elements)))
    given.contents.bytes_contents.extend(element.encode() for element in elements)
    return request


def ranked(channel: grpc.Channel, *elements: str) -> bytes:
    return bytes(GRPCInferenceServiceStub(channel).ModelInfer(history(*elements), timeout=LONG).raw_output_contents[0])


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
def test_element_means_the_same_as_the_event_of_the_other_protocol(
    channel: grpc.Channel, element: str, event: Event
) -> None:
    asked = RecommendRequest(history=[event, Event(item_id="100")])
    answer = RecommenderServiceStub(channel).Recommend(asked, timeout=LONG)
    assert not answer.unknown_item_ids
    assert ranked(channel, element, "100") == packed(*[item.item_id.encode() for item in answer.items])


def test_text_and_item_of_the_same_letters_have_different_answers(channel: grpc.Channel) -> None:
    assert ranked(channel, "text:film") != ranked(channel, "id:text:film")


@pytest.mark.parametrize(
    ("element", "said"),
    [
        ("id:", "input 'HISTORY' element 1: must not be empty, got 'id:'"),
        ("text:", "input 'HISTORY' element 1: must not be empty"),
        ("id:a\0b", "input 'HISTORY' element 1: must not hold a NUL character"),
    ],
)
def test_prefix_without_a_value_is_refused(channel: grpc.Channel, element: str, said: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ranked(channel, "50", element)
    assert isinstance(caught.value, grpc.Call)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, said)


def test_configuration_says_how_ids_and_texts_are_told_apart(channel: grpc.Channel) -> None:
    request = triton.ModelConfigRequest(name="recommender")
    config = GRPCInferenceServiceStub(channel).ModelConfig(request, timeout=LONG).config
    assert "'id:'" in config.parameters["HISTORY"].string_value
