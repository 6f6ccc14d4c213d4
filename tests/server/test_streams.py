"""Streams in order, timers, and responses that clients do not read."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from swiftrec.server.errors import Cancelled, DeadlineExceeded, NotFound, Overloaded
from swiftrec.server.front.limits import UnsentResponses
from swiftrec.server.front.streams import IdleTimeout, Send, map_ordered
from swiftrec.server.front.waits import Exchange, Exchanges, Timers
from swiftrec.server.ticket import Reply, Ticket
from tests.server.support.fronts import ManualLink, echo, write_error
from tests.until import LONG

OnEnd = Callable[[Callable[[], None]], bool]


@contextmanager
def sender(
    link: ManualLink, timeout_s: float = 60.0
) -> Iterator[tuple[Send, ThreadPoolExecutor, IdleTimeout, OnEnd, UnsentResponses]]:
    """What sends messages to the link, and what a stream needs beside it."""
    timers = Timers()
    exchanges = Exchanges(link, timers, write_error, timeout_s)

    def send(message: bytes, on_reply: Callable[[Reply], None]) -> Exchange:
        return exchanges.send("/test.Service/Stream", message, None, on_reply, [])

    timers.start()
    with ThreadPoolExecutor(4) as threads:
        yield send, threads, IdleTimeout(timers, 60.0), lambda _close: True, UnsentResponses(1_000, 60.0, timers)
    timers.stop()


def numbered(number: int) -> list[bytes]:
    return [b"%d" % n for n in range(number)]


def test_messages_are_processed_concurrently_and_answered_in_order() -> None:
    link = ManualLink()
    with sender(link) as given:
        answers = map_ordered(iter(numbered(8)), *given, max_in_flight=4)
        actual: list[bytes] = []
        reader = threading.Thread(target=lambda: actual.extend(answers))
        reader.start()
        first = [link.next() for _ in range(4)]
        assert link.tickets.empty()  # no more than the width
        for ticket in reversed(first):
            ticket.done(ticket.message)
        for _ in range(4):
            echo(link.next())
        reader.join(LONG)
    assert actual == numbered(8)


def test_error_of_reading_is_raised_after_the_pending_responses() -> None:
    def messages() -> Iterator[bytes]:
        yield b"1"
        yield b"2"
        raise ValueError("damaged")

    with sender(ManualLink(echo)) as given:
        answers = map_ordered(messages(), *given)
        assert [next(answers), next(answers)] == [b"1", b"2"]
        with pytest.raises(ValueError, match="damaged"):
            next(answers)


def test_closed_stream_cancels_its_pending_messages() -> None:
    link, over = ManualLink(), threading.Event()

    def messages() -> Iterator[bytes]:
        yield from numbered(3)
        over.wait(LONG)

    with sender(link) as given:
        answers = map_ordered(messages(), *given, max_in_flight=8)
        waiting = threading.Thread(target=lambda: next(answers))
        waiting.start()
        tickets = [link.next() for _ in range(3)]
        echo(tickets[0])
        waiting.join(LONG)
        answers.close()
        assert [ticket.is_cancelled for ticket in tickets] == [False, True, True]
        over.set()


def test_expired_message_does_not_delay_the_next() -> None:
    def answer(ticket: Ticket) -> None:
        if ticket.message != b"0":
            ticket.done(ticket.message)

    def written(_ticket: Ticket, error: Exception) -> Reply:
        return type(error).__name__.encode()

    timers, link = Timers(), ManualLink(answer)
    exchanges = Exchanges(link, timers, written, 0.05)
    timers.start()
    with ThreadPoolExecutor(1) as threads:
        answers = map_ordered(
            iter(numbered(3)),
            lambda message, on_reply: exchanges.send("/test.Service/Stream", message, None, on_reply, []),
            threads,
            IdleTimeout(timers, 60.0),
            lambda _close: True,
            UnsentResponses(1_000, 60.0, timers),
        )
        assert list(answers) == [b"DeadlineExceeded", b"1", b"2"]
    timers.stop()


def test_error_without_a_response_ends_the_stream_after_earlier_responses() -> None:
    def answer(ticket: Ticket) -> None:
        ticket.done(NotFound("no such bundle") if ticket.message == b"1" else ticket.message)

    with sender(ManualLink(answer)) as given:
        answers = map_ordered(iter(numbered(3)), *given)
        assert next(answers) == b"0"
        with pytest.raises(NotFound):
            next(answers)


@pytest.mark.parametrize("sent", [0, 2])
def test_silent_stream_ends_after_its_pending_responses(sent: int) -> None:
    silence: queue.Queue[bytes] = queue.Queue()
    for message in numbered(sent):
        silence.put(message)
    with sender(ManualLink(echo)) as (send, threads, idle_timeout, on_end, unsent):
        limits = IdleTimeout(idle_timeout.timers, 0.05)
        answers = map_ordered(iter(silence.get, b""), send, threads, limits, on_end, unsent)
        assert [next(answers) for _ in range(sent)] == numbered(sent)
        try:
            with pytest.raises(DeadlineExceeded, match="no message arrived"):
                next(answers)
        finally:
            silence.put(b"")  # else the reader, and with it the test, would wait forever


@pytest.mark.parametrize("in_flight", [1, 3])
def test_disconnect_ends_the_wait_for_replies_immediately(in_flight: int) -> None:
    link, goes = ManualLink(), queue.Queue[Callable[[], None]]()

    def on_end(close: Callable[[], None]) -> bool:
        goes.put(close)
        return True

    def messages() -> Iterator[bytes]:
        yield from numbered(3)
        over.wait(LONG)

    over = threading.Event()
    with sender(link) as (send, threads, idle_timeout, _, unsent), ThreadPoolExecutor(1) as other:
        answers = map_ordered(messages(), send, threads, idle_timeout, on_end, unsent, max_in_flight=in_flight)
        waiting = other.submit(next, answers)
        tickets = [link.next() for _ in range(in_flight)]
        goes.get(timeout=LONG)()
        with pytest.raises(Cancelled):
            waiting.result(LONG)
        assert all(ticket.is_cancelled for ticket in tickets)
        over.set()


def test_nothing_is_sent_to_a_disconnected_client() -> None:
    link = ManualLink()
    with sender(link) as (send, threads, idle_timeout, _, unsent), pytest.raises(Cancelled):
        next(map_ordered(iter(numbered(3)), send, threads, idle_timeout, lambda _close: False, unsent))
    assert link.tickets.empty()


def test_replies_waiting_for_their_turn_count_as_unsent_until_the_stream_ends() -> None:
    link = ManualLink()
    with sender(link) as given, ThreadPoolExecutor(1) as other:
        unsent = given[-1]
        answers = map_ordered(iter([b"1" * 100, b"2" * 10, b"3"]), *given)
        first = other.submit(next, answers)
        tickets = [link.next() for _ in range(3)]
        for ticket in tickets[1:]:
            echo(ticket)
        assert unsent.bytes == 11
        echo(tickets[0])
        assert first.result(LONG) == b"1" * 100
        assert unsent.bytes == 11
        assert next(answers) == b"2" * 10
        assert unsent.bytes == 1
        answers.close()
        assert unsent.bytes == 0
        echo(tickets[2])
        assert unsent.bytes == 0


class Clock:
    """Seconds as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_timers_fire_when_due_and_not_earlier() -> None:
    clock, called = Clock(), list[str]()
    timers = Timers(clock)
    timers.schedule(105.0, lambda: called.append("later"))
    timers.schedule(100.1, lambda: called.append("soon"))
    timers.fire()
    assert called == []
    clock.now = 100.1
    timers.fire()
    timers.fire()
    assert called == ["soon"]
    clock.now = 106.0
    timers.fire()
    assert called == ["soon", "later"]


def test_cancelled_timer_never_fires_and_cancel_reports_success() -> None:
    clock, called = Clock(), list[str]()
    timers = Timers(clock)
    first, mate = (
        timers.schedule(100.1, lambda: called.append("one")),
        timers.schedule(100.1, lambda: called.append("2")),
    )
    assert (first.cancel(), first.cancel(), first.is_pending) == (True, False, False)
    clock.now += 1
    timers.fire()
    assert called == ["2"]
    assert not mate.cancel()


def test_failing_action_does_not_affect_other_timers() -> None:
    clock, called = Clock(), list[str]()
    timers = Timers(clock)
    timers.schedule(100.1, lambda: 1 / 0)
    timers.schedule(100.2, lambda: called.append("next"))
    clock.now += 1
    timers.fire()
    assert called == ["next"]


def test_cancelled_timers_use_little_memory_when_far_in_the_future() -> None:
    clock, called = Clock(), list[str]()
    timers = Timers(clock)
    timers.schedule(3_100.0, lambda: called.append("last"))
    for n in range(50_000):
        timers.schedule(3_700.0 + n, lambda: None).cancel()
    assert len(timers._heap) < 2_000
    clock.now = 3_101.0
    timers.fire()
    assert called == ["last"]


def test_consecutive_timers_do_not_wake_the_thread_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, woken = Clock(), list[float]()
    timers = Timers(clock)
    monkeypatch.setattr(timers._changed, "notify", lambda: woken.append(clock.now))
    for _ in range(1_000):
        timers.schedule(clock.now + 10.0, lambda: None).cancel()
        clock.now += 0.0005
    assert len(woken) <= 2  # at first, and after a sweep


def test_timer_added_between_check_and_wait_is_not_missed() -> None:
    called = threading.Event()

    class Raced(Timers):
        is_first = True

        def fire(self) -> None:
            super().fire()
            if self.is_first:
                self.is_first = False
                self.schedule(time.monotonic() + 0.05, called.set)

    timers = Raced()
    timers.schedule(time.monotonic() + 3_600, lambda: None)
    timers.start()
    assert called.wait(LONG)
    timers.stop()


def test_stopped_timers_never_fire() -> None:
    timers, called = Timers(), list[str]()
    timers.start()
    timers.schedule(time.monotonic() + 0.05, lambda: called.append("too late"))
    timers.stop()
    assert called == []


def test_thread_that_dies_is_reported() -> None:
    dead: list[bool] = []

    class Broken(Timers):
        def fire(self) -> None:
            raise MemoryError

    timers = Broken(on_death=lambda: dead.append(True))
    with pytest.raises(MemoryError):
        timers._run()
    assert dead == [True]


class ClockFrontLimits:
    """Seconds as the test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_calls_are_refused_while_too_many_bytes_are_unsent() -> None:
    clock = ClockFrontLimits()
    unsent = UnsentResponses(1_000, 30.0, Timers(clock), clock)
    first, second = unsent.add(900, lambda: None), unsent.add(200, lambda: None)
    with pytest.raises(Overloaded, match="have not been read by their clients"):
        unsent.check()
    unsent.remove(first)
    unsent.check()
    unsent.remove(second)
    unsent.remove(second)  # once is enough
    assert unsent.bytes == 0


def test_only_responses_not_sent_in_time_are_cancelled() -> None:
    clock, cancelled = ClockFrontLimits(), list[str]()
    timers = Timers(clock)
    unsent = UnsentResponses(1_000, 30.0, timers, clock)
    slow = unsent.add(1, lambda: cancelled.append("slow"))
    taken = unsent.add(1, lambda: cancelled.append("taken"))
    clock.now += 20.0
    unsent.add(1, lambda: cancelled.append("later"))
    unsent.remove(taken)
    timers.fire()
    assert cancelled == []
    clock.now += 10.0
    timers.fire()
    assert cancelled == ["slow"]
    unsent.remove(slow)
    clock.now += 20.0
    timers.fire()
    assert cancelled == ["slow", "later"]


def test_many_responses_share_one_timer_and_none_remains_when_all_are_sent() -> None:
    clock = ClockFrontLimits()
    timers = Timers(clock)
    unsent = UnsentResponses(1_000, 30.0, timers, clock)
    for _ in range(1_000):
        unsent.remove(unsent.add(1, lambda: None))
        assert len(timers._heap) == 1
    clock.now += 31.0
    timers.fire()
    assert timers._heap == []
