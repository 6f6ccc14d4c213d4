"""A call is counted as its client saw it end."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from swiftrec.server import errors
from swiftrec.server.front.outcomes import client_code, reason_of
from swiftrec.server.status import code_of


@pytest.mark.parametrize(
    ("ran_s", "remaining_s", "code"),
    [
        (9.0, 0.0, "DEADLINE_EXCEEDED"),
        (1.2347, 0.0053, "DEADLINE_EXCEEDED"),  # of 1.24 s that a timeout of 1.2347 s is told as
        (90.01, 0.09, "DEADLINE_EXCEEDED"),  # of 90.1 s
        (0.05, 0.002, "DEADLINE_EXCEEDED"),
        (1.2, 0.1, "CANCELLED"),
        (80.0, 2.0, "CANCELLED"),
        (5.0, math.inf, "CANCELLED"),
        (5.0, None, "CANCELLED"),
    ],
)
def test_cancel_at_the_deadline_is_told_from_one_before_it(ran_s: float, remaining_s: float | None, code: str) -> None:
    assert client_code(time.monotonic() - ran_s, remaining_s) == code


_REFUSALS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, errors.SwiftrecError)
    # Two of them end a start and not a call; the last one has no other reason.
    and kind not in {errors.SwiftrecError, errors.ConfigError, errors.ProviderError, errors.InternalError}
]


def test_every_refusal_has_a_code_and_a_reason() -> None:
    given: dict[type, tuple[Any, ...]] = {
        errors.InvalidRequest: ("field", "must be 1"),
        errors.InvalidInput: ("TEXT", "must be 1"),
        errors.Overloaded: (1.0,),
    }
    made = [kind(*given.get(kind, ())) for kind in _REFUSALS]
    assert len(made) > 10
    assert [error for error in made if reason_of(error)["reason"] == "internal error"] == []
    internal = code_of(errors.SwiftrecError())
    assert [error for error in made if code_of(error) == internal and not isinstance(error, errors.ModelFailed)] == []
    assert reason_of(errors.SwiftrecError())["reason"] == "internal error"
