"""Health says the newest state, whichever threads publish at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import grpc
import pytest
from grpc_health.v1 import health_pb2

from swiftrec.server.readiness import Readiness

_BLOCKED_S = 0.1  # for which the other thread may run, or wait for this one
_CONTEXT = cast(grpc.ServicerContext, None)  # of calls for a service that is known, it is not used
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def states(readiness: Readiness) -> set[int]:
    requests = [health_pb2.HealthCheckRequest(service=name) for name in ("", "a.Service")]
    return {readiness.servicer.Check(request, _CONTEXT).status for request in requests}


@pytest.mark.parametrize("end", [Readiness.stop, Readiness.fail])
def test_health_stays_not_serving_when_a_load_ends_at_the_same_moment(end: Callable[[Readiness], None]) -> None:
    ending: list[threading.Thread] = []

    def has_bundle() -> bool:  # which is looked up while the end of the load is being published
        if not ending:
            ending.append(threading.Thread(target=end, args=(readiness,)))
            ending[0].start()
            ending[0].join(_BLOCKED_S)
        return True

    readiness = Readiness(["a.Service"], has_bundle)
    readiness.publish()
    ending[0].join()
    assert states(readiness) == {_NOT_SERVING}
    readiness.publish()
    assert states(readiness) == {_NOT_SERVING}
