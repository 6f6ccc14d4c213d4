"""Connections to a running server: TLS, tokens, and which bundle it serves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from swiftrec.benchmarks import __main__ as command
from swiftrec.benchmarks import connection
from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.connection import check_source
from swiftrec.benchmarks.recording import Recording
from swiftrec.benchmarks.server_process import running_server as tool
from swiftrec.benchmarks.workload import PATHS, MethodName
from swiftrec.server.app import App
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RecommendRequest
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.conftest import ROOT
from tests.files import put
from tests.server.support.bundles import write_manifest
from tests.server.support.secure import OTHER, TOKEN, UNAUTHENTICATED, Identity, bearer, serving

Files = dict[str, Path]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    given = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, given)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The right authority and token, and wrong ones."""
    folder, stranger = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("stranger")
    server, other = Identity(folder), Identity(stranger)
    result = {"cert": server.cert, "key": server.key, "ca": server.ca, "other-ca": other.ca}
    for name, text in (("token", f"{TOKEN}\nmore\n"), ("other-token", OTHER), ("no-token", "\n"), ("tokens", TOKEN)):
        result[name] = put(folder / name, text.encode())
    return result


@pytest.fixture(scope="module")
def secured(bundle: Bundle, files: Files) -> Iterator[App]:
    with serving(bundle, tls_cert=files["cert"], tls_key=files["key"], token_file=files["tokens"]) as running:
        yield running


def flags(app: App, bundle: Bundle, files: Files, ca: str = "", token: str = "") -> list[str]:
    given = ["--target", f"127.0.0.1:{app.port}", "--bundle", str(bundle.folder)]
    given += ["--tls-ca", str(files[ca])] if ca else []
    return given + (["--token-file", str(files[token])] if token else [])


@pytest.mark.parametrize("processes", ["1", "2"])
def test_load_reaches_a_server_with_tls_and_token(secured: App, bundle: Bundle, files: Files, processes: str) -> None:
    more = ["--warmup-s", "0", "--seconds", "0.5", "--in-flight", "2", "--processes", processes, "--max-busy", "9"]
    command = [
        sys.executable,
        "-m",
        "swiftrec.benchmarks",
        "load",
        *flags(secured, bundle, files, "ca", "token"),
        *more,
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["failed"] == 0
    assert result["requests"] > 0
    assert TOKEN not in ended.stdout + " ".join(command)


@pytest.mark.parametrize("name", ["load", "bench"])
@pytest.mark.parametrize(
    ("ca", "token", "said"),
    [
        ("", "", "does not accept plaintext: give --tls-ca"),
        ("other-ca", "token", "ca.pem must hold the authority of its certificate"),
        ("ca", "", "requires a token: give --token-file"),
        ("ca", "other-token", "rejects the token on the first line of"),
        ("ca", "no-token", "its first line is empty"),
    ],
)
def test_wrong_files_are_a_sentence(
    name: str, ca: str, token: str, said: str, secured: App, bundle: Bundle, files: Files,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(connection, "_CONNECT_S", 2.0)
    monkeypatch.chdir(tmp_path)
    assert main([name, *flags(secured, bundle, files, ca, token)]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    program = "swiftrec bench" if name == "bench" else f"swiftrec bench {name}"
    assert printed.err.startswith(f"{program}: ")
    assert TOKEN not in printed.err + printed.out
    assert OTHER not in printed.err + printed.out


def test_a_file_that_is_not_there_is_named(
    secured: App, bundle: Bundle, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    given = flags(secured, bundle, files | {"ca": Path("no.pem")}, "ca")
    assert main(["load", *given]) == 2
    assert "no.pem: No such file" in capsys.readouterr().err


def test_bench_of_its_own_server_wants_no_access(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--tls-ca", str(files["ca"])]) == 2
    assert "give --target as well" in capsys.readouterr().err


def test_record_passes_its_clients_tokens_on_over_tls(
    secured: App, bundle: Bundle, files: Files, tmp_path: Path
) -> None:
    path = tmp_path / "calls.jsonl"
    given = [*flags(secured, bundle, files, "ca"), "--output", str(path)]
    with (
        tool(["-m", "swiftrec.benchmarks", "record", *given], core=None) as proxy,
        grpc.insecure_channel(proxy.address) as channel,
    ):
        service, request = RecommenderServiceStub(channel), RecommendRequest(query="a good western")
        assert service.Recommend(request, timeout=20, metadata=tuple(bearer(TOKEN))).items
        with pytest.raises(grpc.RpcError) as refused:
            service.Recommend(request, timeout=20)
        assert refused.value.code() is UNAUTHENTICATED
    assert len(Recording.load(path).calls) >= 1


def test_record_with_a_wrong_authority_is_a_sentence_and_no_recording(
    secured: App, bundle: Bundle, files: Files, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(connection, "_CONNECT_S", 2.0)
    path = tmp_path / "calls.jsonl"
    assert main(["record", *flags(secured, bundle, files, "other-ca"), "--output", str(path)]) == 2
    printed = capsys.readouterr()
    assert "no TLS with the server at" in printed.err
    assert printed.out == ""
    assert not path.exists()


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
            context.abort(self._fails, "because")
        return pb.RecommendResponse(items=[pb.RankedItem(item_id="i")], bundle="mine", version=1)


@contextmanager
def running_server(fake: Fake | None) -> Iterator[str]:
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
def test_same_bundle_is_taken_and_the_measured_method_is_left_alone(tmp_path: Path, method: MethodName) -> None:
    fake = Fake()
    with running_server(fake) as target:
        check_source(target, write_manifest(tmp_path / "bundle"), method)
    assert len(fake.asked) == 1
    assert fake.asked[0] != method


@pytest.mark.parametrize(("name", "version"), [("other", 1), ("mine", 2)])
def test_another_bundle_is_refused_with_both_names(tmp_path: Path, name: str, version: int) -> None:
    bundle = write_manifest(tmp_path / "bundle", name, version)
    expected = (
        f"serves mine version 1, but the requests would be of {name} version {version}: give --bundle the served one"
    )
    with running_server(Fake()) as target, pytest.raises(RuntimeError, match=expected):
        check_source(target, bundle, "recommend")


@pytest.mark.parametrize("fails", [None, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_server_that_cannot_tell_is_measured_all_the_same(tmp_path: Path, fails: grpc.StatusCode | None) -> None:
    with running_server(Fake(fails) if fails else None) as target:
        check_source(target, write_manifest(tmp_path / "bundle", "other"), "encode")


def test_server_that_is_not_ready_is_said_with_its_own_words(tmp_path: Path) -> None:
    with (
        running_server(Fake(grpc.StatusCode.UNAVAILABLE)) as target,
        pytest.raises(RuntimeError, match=r"\(because\): start"),
    ):
        check_source(target, write_manifest(tmp_path / "bundle"), "encode")


@pytest.mark.parametrize("tool", ["load", "replay", "record"])
def test_no_server_is_a_sentence_with_what_to_do(
    tmp_path: Path, tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection, "_CONNECT_S", 0.05)
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
    assert "nothing responds at 127.0.0.1:9: start a server there (swiftrec serve)" in said


def test_load_of_another_bundle_ends_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_manifest(tmp_path / "bundle", "other")
    with running_server(Fake()) as target:
        assert command.main(["load", "--target", target, "--bundle", str(bundle), "--processes", "2"]) == 2
    said = capsys.readouterr()
    assert "give --bundle the served one" in said.err
    assert said.out == ""
