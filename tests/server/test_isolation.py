"""Requests do not affect each other, over a real socket: cancels, failing models, invalid input, deadlines."""

from __future__ import annotations

from typing import cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2 as pb
from tests.server.support.gated import Gated, bench, code, refused_of
from tests.until import LONG, until

_LATE_S = 2.0  # a deadline that passes while its call waits, and not before it does


def test_cancelled_call_of_a_batch_does_not_affect_the_others(bundle: Bundle) -> None:
    with bench(bundle) as served:
        held = served.hold()
        calls = [served.ask(f"text {n}") for n in range(5)]
        served.until_sent(5)
        calls[0].cancel()
        served.until_calls(5)
        served.encoder.open()
        assert all(call.result(LONG).rows == 1 for call in [held, *calls[1:]])
        assert served.encoder.sizes == [1, 4]
        assert served.ask("the next").result(LONG).rows == 1
        assert served.is_healthy()


def test_admitted_call_never_runs_when_cancelled(bundle: Bundle) -> None:
    with bench(bundle, max_batch_size=1) as served:
        held = served.hold()
        calls = [served.ask(f"text {n}") for n in range(5)]
        served.until_sent(5)
        served.admit()
        assert held.result(LONG).rows == 1
        served.until_calls(5)  # of which one, any of them, is in the step
        for call in calls:
            call.cancel()
        served.until_calls(0)
        served.encoder.open()
        assert served.ask("the next").result(LONG).rows == 1
        assert served.encoder.sizes == [1, 1, 1]
        assert not served.app.worker.has_work


def test_running_job_of_a_cancelled_call_fails_no_other_call(bundle: Bundle) -> None:
    with bench(bundle) as served:
        held = served.hold()
        held.cancel()
        mate = served.ask("text")
        served.until_calls(1)
        served.encoder.open()
        assert mate.result(LONG).rows == 1


def test_model_that_raises_once_fails_no_call(bundle: Bundle) -> None:
    with bench(bundle) as served:
        held = served.hold()
        calls = [served.ask(f"text {n}") for n in range(4)]
        served.until_sent(4)
        served.encoder.fails = 1  # for the batch that runs next: it is run again row by row and succeeds
        served.encoder.open()
        assert all(call.result(LONG).rows == 1 for call in [held, *calls])
        assert served.encoder.sizes == [1, 1, 1, 1, 1]
        assert served.ask("the next").result(LONG).rows == 1
        assert served.is_healthy()


def test_model_failure_on_one_text_fails_only_its_call(bundle: Bundle) -> None:
    with bench(bundle) as served:
        held = served.hold()
        calls = [served.ask(f"text {n}") for n in range(3)]
        served.until_sent(3)
        served.encoder.fails = 2  # the batch, and the first row when it is run again
        served.encoder.open()
        assert held.result(LONG).rows == 1
        # Any of the calls may be the first row: they may be sent to the worker in any order.
        failed = [call for call in calls if call.exception(LONG)]  # type: ignore[call-arg] # a timeout in seconds
        assert [code(call) for call in failed] == [grpc.StatusCode.INTERNAL]
        assert all(call.result(LONG).rows == 1 for call in calls if call not in failed)
        served.encoder.fails = 1  # a batch of one fails at once
        assert code(served.ask("guilty")) is grpc.StatusCode.INTERNAL
        assert served.ask("the next").result(LONG).rows == 1
        assert served.is_healthy()


def test_invalid_payload_is_refused_and_other_calls_are_answered(bundle: Bundle) -> None:
    with bench(bundle) as served:
        held = served.hold()
        good = served.ask("good")
        bad = served.stub.Encode.future(pb.EncodeRequest(texts=["good", ""]), timeout=LONG)
        served.until_calls(3)
        served.encoder.open()
        assert code(bad) is grpc.StatusCode.INVALID_ARGUMENT
        assert [call.result(LONG).rows for call in (held, good)] == [1, 1]
        assert served.ask("the next").result(LONG).rows == 1
        assert served.is_healthy()


@pytest.mark.parametrize("model", ["encoder", "ranker"])
def test_cancelled_and_expired_calls_release_their_slots_while_the_model_is_busy(bundle: Bundle, model: str) -> None:
    with bench(bundle) as served:
        session: Gated = getattr(served, model)

        def ask(timeout: float = LONG) -> grpc.Future:  # type: ignore[type-arg]
            return served.ask("text", timeout) if model == "encoder" else served.recommend(timeout)

        session.close()
        held = ask()
        session.until_held()
        calls, late = [ask() for _ in range(20)], [ask(_LATE_S) for _ in range(20)]
        served.until_calls(41)
        for call in calls:
            call.cancel()
        served.until_calls(21)  # the model is still held
        assert {code(call) for call in late} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        served.until_calls(1)  # the model is still held
        session.open()
        assert held.done() or held.result(LONG)
        assert ask().result(LONG)
        assert session.sizes == [1, 1]  # none of the forty ran


def test_full_server_gives_a_time_to_retry(bundle: Bundle) -> None:
    with bench(bundle, max_queue_requests=3, max_batch_size=1) as served:
        held = served.hold()
        calls = [served.ask(f"text {n}") for n in range(4)]
        served.until_sent(4)
        served.admit()
        (refused,) = refused_of(calls, 1)
        assert code(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "Exceeds maximum queue size" in refused.details()  # type: ignore[attr-defined] # as Triton's clients ask
        assert int(dict(refused.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1  # type: ignore[attr-defined]
        status, retry = rpc_status.from_call(cast("grpc.Call", refused)), error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToTimedelta().total_seconds() > 0
        served.encoder.open()
        assert all(call.result(LONG).rows == 1 for call in [held, *calls] if call is not refused)


def test_calls_beyond_max_calls_are_refused_with_retry_info(bundle: Bundle) -> None:
    with bench(bundle, max_calls=4) as served:
        held = [served.hold(), *[served.ask(f"text {n}") for n in range(3)]]
        served.until_calls(4)
        refused = served.ask("too many")
        assert code(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (
            error_details_pb2.RetryInfo.DESCRIPTOR.full_name
            in rpc_status.from_call(cast("grpc.Call", refused)).details[0].type_url
        )
        served.encoder.open()
        assert all(call.result(LONG).rows == 1 for call in held)


def test_dead_worker_turns_health_off_and_fails_calls_immediately(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("a bug of ours")

    with bench(bundle) as served:
        assert served.is_healthy()
        monkeypatch.setattr(served.app.worker, "step", broken)
        assert code(served.ask("the one that it dies of")) is grpc.StatusCode.UNAVAILABLE
        assert not served.is_healthy()
        assert code(served.ask("a later one")) is grpc.StatusCode.UNAVAILABLE


def test_outcomes_in_the_metrics_are_those_that_clients_saw(bundle: Bundle) -> None:
    with bench(bundle, max_queue_requests=3, max_batch_size=1) as served:
        held = served.hold()
        calls = [served.ask(f"text {n}") for n in range(7)]
        served.until_sent(7)
        served.admit()
        full = refused_of(calls, 4)
        bad = [served.ask("") for _ in range(5)]
        served.encoder.open()
        seen = [code(call) for call in (*full, *bad)]
        assert all(call.result(LONG).rows == 1 for call in [held, *calls] if call not in full)
        counts = served.app.metrics.calls
        assert seen.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 4
        assert seen.count(grpc.StatusCode.INVALID_ARGUMENT) == 5
        expected = {"RESOURCE_EXHAUSTED": 4, "INVALID_ARGUMENT": 5, "OK": 4}
        until(
            lambda: {name: counts.count("Encode", name) for name in expected} == expected
        )  # counted once a call is over
