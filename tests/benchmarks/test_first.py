"""A load is refused in a sentence where no server answers, or one with another bundle than the one it is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from swiftrec.benchmarks import __main__ as command
from swiftrec.benchmarks import first
from swiftrec.benchmarks.first import check_source
from swiftrec.benchmarks.workload import PATHS, Method
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from tests.server.bundles import write_manifest


class Fake:
    """Answers as version 1 of "mine", or as `fails` says; notes what was asked."""

    def __init__(self, fails: grpc.StatusCode | None = None) -> None:
        self.asked: list[str] = []
        self._fails = fails

    def recommend(self, _request: object, context: grpc.ServicerContext) -> pb.RecommendResponse:
        return self._reply(context, "recommend")

    def batch(self, _request: object, context: grpc.ServicerContext) -> pb.BatchRecommendResponse:
        return pb.BatchRecommendResponse(results=[pb.BatchRecommendResult(response=self._reply(context, "batch"))])

    def _reply(self, context: grpc.ServicerContext, what: str) -> pb.RecommendResponse:
        self.asked.append(what)
        if self._fails:
            context.abort(self._fails, "as told")
        return pb.RecommendResponse(items=[pb.RankedItem(item_id="i")], bundle="mine", version=1)


@contextmanager
def serving(fake: Fake | None) -> Iterator[str]:
    """The address of a server of these two methods, or of none."""
    server, methods = grpc.server(ThreadPoolExecutor(2)), {}
    if fake:
        methods = {"Recommend": handler(fake.recommend), "BatchRecommend": handler(fake.batch)}
    generic = grpc.method_handlers_generic_handler("swiftrec.v1.RecommenderService", methods)
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def handler(behaviour: Callable[[Any, grpc.ServicerContext], Any]) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(behaviour, response_serializer=lambda reply: reply.SerializeToString())


@pytest.mark.parametrize("method", PATHS)
def test_same_bundle_is_taken_and_the_measured_method_is_left_alone(tmp_path: Path, method: Method) -> None:
    fake = Fake()
    with serving(fake) as target:
        check_source(target, write_manifest(tmp_path / "bundle"), method)
    assert len(fake.asked) == 1
    assert fake.asked[0] != method


@pytest.mark.parametrize(("name", "version"), [("other", 1), ("mine", 2)])
def test_another_bundle_is_refused_with_both_names(tmp_path: Path, name: str, version: int) -> None:
    bundle = write_manifest(tmp_path / "bundle", name, version)
    wanted = f"answers from mine version 1, the texts would come from {name} version {version}: give the same --bundle"
    with serving(Fake()) as target, pytest.raises(RuntimeError, match=wanted):
        check_source(target, bundle, "recommend")


@pytest.mark.parametrize("fails", [None, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_server_that_cannot_tell_is_measured_all_the_same(tmp_path: Path, fails: grpc.StatusCode | None) -> None:
    with serving(Fake(fails) if fails else None) as target:
        check_source(target, write_manifest(tmp_path / "bundle", "other"), "encode")


def test_server_that_is_not_ready_is_said_with_its_own_words(tmp_path: Path) -> None:
    with serving(Fake(grpc.StatusCode.UNAVAILABLE)) as target, pytest.raises(RuntimeError, match=r"\(as told\): start"):
        check_source(target, write_manifest(tmp_path / "bundle"), "encode")


@pytest.mark.parametrize("tool", ["load", "replay", "record"])
def test_no_server_is_a_sentence_with_what_to_do(
    tmp_path: Path, tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(first, "_CONNECT_S", 0.05)
    calls = tmp_path / "calls"
    calls.write_text("\n".join(map(json.dumps, [{"format": 1, "method": "encode"}, {"t": 0, "requests": [["m", 5]]}])))
    flags = ["--target", "127.0.0.1:9", "--bundle", str(write_manifest(tmp_path / "bundle"))]
    if tool == "record":
        monkeypatch.setattr("swiftrec.benchmarks.record.TokenCounter", lambda _: SimpleNamespace(count=len))
        flags += ["--output", str(tmp_path / "out")]
    assert (
        command.main(
            ["load" if tool == "replay" else tool, *flags, *(["--recording", str(calls)] * (tool == "replay"))]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert "nothing answers at 127.0.0.1:9: start a server there (make serve)" in said


def test_load_of_another_bundle_ends_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_manifest(tmp_path / "bundle", "other")
    with serving(Fake()) as target:
        assert command.main(["load", "--target", target, "--bundle", str(bundle), "--processes", "2"]) == 2
    said = capsys.readouterr()
    assert "give the same --bundle" in said.err
    assert said.out == ""
