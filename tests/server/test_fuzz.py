"""A short run of the fuzz (`make fuzz` is the long one), and controls: a faulty validator must be caught."""

from __future__ import annotations

import pytest

from swiftrec.server.app import _SERVICES
from swiftrec.server.errors import InvalidRequest, NotFound
from swiftrec.server.front.outcomes import request_id
from swiftrec.server.front.security import methods_of
from swiftrec.server.messages import decode as decode_message
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.status import to_status
from swiftrec.server.worker import methods
from tests.server.fuzz import decode, wire
from tests.server.fuzz.faulty import confused
from tests.server.fuzz.mutators import Cases
from tests.server.fuzz.seeds import seeds
from tests.server.process import serving


def test_every_method_of_both_protocols_has_a_valid_message() -> None:
    assert sorted(seeds()) == sorted(methods_of(_SERVICES))


def test_mutated_messages_are_answered_or_refused_in_our_words() -> None:
    assert decode.run(20_000, seed=7).failures == []


def test_decode_control_catches_a_validator_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "to_request", confused)
    failures = decode.run(300, seed=7).failures
    assert failures
    assert all("seed 7 case " in failure and "KeyError" in failure for failure in failures)


def test_mutated_requests_leave_the_server_as_it_was(bundle: Bundle) -> None:
    with serving(bundle.folder, module="swiftrec.benchmarks null-server") as server:
        outcome = wire.Fuzz(server, Cases(11, bundle.manifest.name), 11).run(5_000)
    assert outcome.failures == []
    assert outcome.cases == 5_000


def test_wire_control_catches_a_validator_that_raises(bundle: Bundle) -> None:
    with serving(bundle.folder, module="tests.server.fuzz.faulty") as server:
        failures = wire.Fuzz(server, Cases(11, bundle.manifest.name), 11).run(300).failures
    assert any("INTERNAL" in failure and "bytes " in failure for failure in failures)
    assert any(failure.startswith("counted: ") for failure in failures)


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\u20ac" * 100_000])
def test_a_sentence_that_quotes_the_request_fits_in_a_trailer(text: str) -> None:
    for error in (InvalidRequest(text, text), NotFound(text)):
        status = to_status(error)
        percent_encoded = sum(1 if 32 <= byte < 127 else 3 for byte in status.message.encode())
        assert percent_encoded + status.ByteSize() * 4 / 3 < 7_500


def test_a_long_malformed_message_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest, match="malformed"):
        decode_message(pb.RecommendRequest, b"\x0a\x00" * 2_000_000 + b"\xff")


def test_a_request_id_beyond_ascii_is_replaced() -> None:
    found = request_id((("x-request-id", "\u00e9"),))
    assert found
    assert found.isascii()
