"""Streams: side by side, in order, and nothing is left when a stream ends early."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from swiftrec.server.errors import Cancelled, DeadlineExceeded, NotFound
from swiftrec.server.front.limits import Unsent
from swiftrec.server.front.streams import Patience, Send, map_ordered
from swiftrec.server.front.waits import Exchange, Exchanges, Timers
from swiftrec.server.ticket import Reply, Ticket
from tests.server.fronts import ManualLink, echo, write_error
from tests.until import LONG

OnEnd = Callable[[Callable[[], None]], bool]


@contextmanager
def sender(
    link: ManualLink, timeout_s: float = 60.0
) -> Iterator[tuple[Send, ThreadPoolExecutor, Patience, OnEnd, Unsent]]:
    """What sends messages to the link, and what a stream needs beside it."""
    timers = Timers()
    exchanges = Exchanges(link, timers, write_error, timeout_s)

    def send(message: bytes, on_reply: Callable[[Reply], None]) -> Exchange:
        return exchanges.send("/test.Service/Stream", message, None, on_reply, [])

    timers.start()
    with ThreadPoolExecutor(4) as threads:
        yield send, threads, Patience(timers, 60.0), lambda _close: True, Unsent(1_000, 60.0, timers)
    timers.stop()


def numbered(number: int) -> list[bytes]:
    return [b"%d" % n for n in range(number)]


def test_messages_are_worked_on_side_by_side_and_answered_in_order() -> None:
    link = ManualLink()
    with sender(link) as given:
        answers = map_ordered(iter(numbered(8)), *given, width=4)
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.extend(answers))
        reader.start()
        first = [link.next() for _ in range(4)]
        assert link.tickets.empty()  # no more than the width
        for ticket in reversed(first):
            ticket.done(ticket.message)
        for _ in range(4):
            echo(link.next())
        reader.join(LONG)
    assert found == numbered(8)


def test_what_reading_raises_comes_after_the_answers_to_what_was_read() -> None:
    def messages() -> Iterator[bytes]:
        yield b"1"
        yield b"2"
        raise ValueError("damaged")

    with sender(ManualLink(echo)) as given:
        answers = map_ordered(messages(), *given)
        assert [next(answers), next(answers)] == [b"1", b"2"]
        with pytest.raises(ValueError, match="damaged"):
            next(answers)


def test_stream_that_is_closed_cancels_what_was_sent() -> None:
    link, over = ManualLink(), threading.Event()

    def messages() -> Iterator[bytes]:
        yield from numbered(3)
        over.wait(LONG)

    with sender(link) as given:
        answers = map_ordered(messages(), *given, width=8)
        waiting = threading.Thread(target=lambda: next(answers))
        waiting.start()
        tickets = [link.next() for _ in range(3)]
        echo(tickets[0])
        waiting.join(LONG)
        answers.close()
        assert [ticket.is_cancelled for ticket in tickets] == [False, True, True]
        over.set()


def test_message_whose_deadline_passes_does_not_hold_up_the_next() -> None:
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
            Patience(timers, 60.0),
            lambda _close: True,
            Unsent(1_000, 60.0, timers),
        )
        assert list(answers) == [b"DeadlineExceeded", b"1", b"2"]
    timers.stop()


def test_error_that_is_no_message_ends_the_stream_after_what_came_before() -> None:
    def answer(ticket: Ticket) -> None:
        ticket.done(NotFound("no such bundle") if ticket.message == b"1" else ticket.message)

    with sender(ManualLink(answer)) as given:
        answers = map_ordered(iter(numbered(3)), *given)
        assert next(answers) == b"0"
        with pytest.raises(NotFound):
            next(answers)


@pytest.mark.parametrize("sent", [0, 2])
def test_stream_that_is_silent_ends_after_the_answers_to_what_was_sent(sent: int) -> None:
    silence: queue.Queue[bytes] = queue.Queue()
    for message in numbered(sent):
        silence.put(message)
    with sender(ManualLink(echo)) as (send, threads, patience, on_end, unsent):
        limits = Patience(patience.timers, 0.05)
        answers = map_ordered(iter(silence.get, b""), send, threads, limits, on_end, unsent)
        assert [next(answers) for _ in range(sent)] == numbered(sent)
        with pytest.raises(DeadlineExceeded, match="no message came"):
            next(answers)
        silence.put(b"")


@pytest.mark.parametrize("in_flight", [1, 3])
def test_client_that_goes_ends_the_wait_for_its_replies_at_once(in_flight: int) -> None:
    link, goes = ManualLink(), queue.Queue[Callable[[], None]]()

    def on_end(close: Callable[[], None]) -> bool:
        goes.put(close)
        return True

    def messages() -> Iterator[bytes]:
        yield from numbered(3)
        over.wait(LONG)

    over = threading.Event()
    with sender(link) as (send, threads, patience, _, unsent), ThreadPoolExecutor(1) as other:
        answers = map_ordered(messages(), send, threads, patience, on_end, unsent, width=in_flight)
        waiting = other.submit(next, answers)
        tickets = [link.next() for _ in range(in_flight)]
        goes.get(timeout=LONG)()
        with pytest.raises(Cancelled):
            waiting.result(LONG)
        assert all(ticket.is_cancelled for ticket in tickets)
        over.set()


def test_client_that_has_gone_has_nothing_sent() -> None:
    link = ManualLink()
    with sender(link) as (send, threads, patience, _, unsent), pytest.raises(Cancelled):
        next(map_ordered(iter(numbered(3)), send, threads, patience, lambda _close: False, unsent))
    assert link.tickets.empty()


def test_replies_that_wait_for_their_turn_count_as_unsent_until_the_stream_ends() -> None:
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
