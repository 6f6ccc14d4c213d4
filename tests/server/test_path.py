"""One Recommend runs through few files and threads of the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.text import is_blank
from tests.conftest import ROOT
from tests.server.support.secure import connected, serving
from tests.until import LONG, until

_MAX_FILES, _MAX_THREADS = 40, 2
_PERIODIC = {"monitoring", "watchdog"}  # threads that look at something at times, whether or not there is a call
_SERVER = str(ROOT / "swiftrec" / "server") + "/"


class Path:
    """What calls of functions of the server were seen: the files by thread."""

    def __init__(self) -> None:
        self.entered: set[tuple[str, str]] = set()
        self.is_watching = False

    def see(self, frame: FrameType, event: str, _argument: object) -> None:
        """For `threading.setprofile`."""
        if not self.is_watching or event != "call":
            return
        file, thread = frame.f_code.co_filename, threading.current_thread().name
        if file.startswith(_SERVER) and thread not in _PERIODIC:
            self.entered.add((thread, file.removeprefix(_SERVER)))

    @property
    def files(self) -> list[str]:
        """Files that were entered."""
        return sorted({file for _, file in self.entered})

    @property
    def threads(self) -> list[str]:
        """Names of the threads that entered them."""
        return sorted({thread for thread, _ in self.entered})


@contextmanager
def watched() -> Iterator[Path]:
    """Threads that start meanwhile are watched as long as they run."""
    path = Path()
    threading.setprofile(path.see)
    try:
        yield path
    finally:
        threading.setprofile(None)


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_one_recommend_runs_in_few_files_and_two_threads(bundle: Bundle, cache_mb: int) -> None:
    with watched() as path, serving(bundle, cache_mb=cache_mb) as app, connected(app) as channel:
        stub, counts = RecommenderServiceStub(channel), app.metrics.calls
        request = pb.RecommendRequest(query="a western", history=[pb.Event(item_id="50"), pb.Event(text="space")])
        for n in range(3):  # the third one is watched: caches are filled, and what is made once has been made
            path.is_watching = n == 2
            assert stub.Recommend(request, timeout=LONG).items
            until(lambda n=n: counts.count("Recommend", "OK") == n + 1)  # type: ignore[misc] # one for each
        path.is_watching = False
    actual = "\n".join(f"{thread}: {file}" for thread, file in sorted(path.entered))
    assert len(path.threads) <= _MAX_THREADS, f"{len(path.threads)} threads\n{actual}"
    assert len(path.files) <= _MAX_FILES, f"{len(path.files)} files\n{actual}"


def test_trace_includes_a_call_to_the_server() -> None:
    """Negative control: a thread that enters a file of the server, and one that enters none."""
    with watched() as path:
        path.is_watching = True
        for name, action in (("inside", lambda: is_blank(" ")), ("outside", lambda: until(lambda: True))):
            thread = threading.Thread(target=action, name=name)
            thread.start()
            thread.join()
    assert path.entered == {("inside", "text.py")}
