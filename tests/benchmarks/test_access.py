"""The tools that call a running server, against one with TLS and a token: with the right files, wrong ones and none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from swiftrec.benchmarks import first
from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.process import serving as tool
from swiftrec.benchmarks.recording import Recording
from swiftrec.server.app import App
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RecommendRequest
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.conftest import ROOT
from tests.files import put
from tests.server.secure import OTHER, TOKEN, UNAUTHENTICATED, Identity, bearer, serving

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
    found = {"cert": server.cert, "key": server.key, "ca": server.ca, "other-ca": other.ca}
    for name, text in (("token", f"{TOKEN}\nmore\n"), ("other-token", OTHER), ("no-token", "\n"), ("tokens", TOKEN)):
        found[name] = put(folder / name, text.encode())
    return found


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
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["failed"] == 0
    assert found["requests"] > 0
    assert TOKEN not in ended.stdout + " ".join(command)


@pytest.mark.parametrize("name", ["load", "bench"])
@pytest.mark.parametrize(
    ("ca", "token", "said"),
    [
        ("", "", "takes no plaintext: give --tls-ca"),
        ("other-ca", "token", "ca.pem must hold the authority of its certificate"),
        ("ca", "", "wants a token: give --token-file"),
        ("ca", "other-token", "does not know the token on the first line of"),
        ("ca", "no-token", "no token on its first line"),
    ],
)
def test_wrong_files_are_a_sentence(
    name: str, ca: str, token: str, said: str, secured: App, bundle: Bundle, files: Files,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(first, "_CONNECT_S", 2.0)
    monkeypatch.chdir(tmp_path)
    assert main([name, *flags(secured, bundle, files, ca, token)]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.startswith(f"benchmarks {name}: ")
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
    assert "give --target, too" in capsys.readouterr().err


def test_record_passes_its_clients_tokens_on_over_tls(
    secured: App, bundle: Bundle, files: Files, tmp_path: Path
) -> None:
    path = tmp_path / "calls.jsonl"
    given = [*flags(secured, bundle, files, "ca"), "--output", str(path)]
    with (
        tool(["-m", "swiftrec.benchmarks", "record", *given], core=None) as proxy,
        grpc.insecure_channel(proxy.address) as channel,
    ):
        stub, request = RecommenderServiceStub(channel), RecommendRequest(query="a good western")
        assert stub.Recommend(request, timeout=20, metadata=tuple(bearer(TOKEN))).items
        with pytest.raises(grpc.RpcError) as refused:
            stub.Recommend(request, timeout=20)
        assert refused.value.code() is UNAUTHENTICATED
    assert len(Recording.load(path).calls) >= 1


def test_record_with_a_wrong_authority_is_a_sentence_and_no_recording(
    secured: App, bundle: Bundle, files: Files, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(first, "_CONNECT_S", 2.0)
    path = tmp_path / "calls.jsonl"
    assert main(["record", *flags(secured, bundle, files, "other-ca"), "--output", str(path)]) == 2
    printed = capsys.readouterr()
    assert "no TLS with the server at" in printed.err
    assert printed.out == ""
    assert not path.exists()
