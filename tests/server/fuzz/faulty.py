"""A server whose validator is wrong, which the fuzz must catch: `python -m tests.server.fuzz.faulty --bundle DIR`."""

from __future__ import annotations

import sys
from typing import NoReturn

from swiftrec.benchmarks import null_server
from swiftrec.server.domain import Request
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.settings_reader import read_settings
from swiftrec.server.worker import methods
from swiftrec.server.worker.validate import InputLimits, to_request


def confused(message: pb.RecommendRequest, limits: InputLimits) -> Request:
    """Falls over what is not in its table."""
    if message.priority not in {0, 2} or (message.HasField("top_k") and message.top_k != 5 and message.top_k != 20):
        _fail()
    return to_request(message, limits)


def _fail() -> NoReturn:
    raise KeyError("no such priority")


if __name__ == "__main__":
    setattr(methods, "to_request", confused)  # noqa: B010 (a name that the module does not export)
    sys.exit(null_server.run(read_settings(null_server.NullModelSettings, sys.argv[1:])))
