"""The command that the server prints after its start sends what it should, whatever the bundle's titles hold."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from swiftrec.ask import read_token
from swiftrec.server.config import ServerSettings
from swiftrec.server.domain import Item
from swiftrec.server.hint import AskRequest, example, hint, program_as_typed
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from tests.conftest import ROOT
from tests.files import put
from tests.server.support.secure import TOKEN, Identity

_NASTY = [
    "plain",
    "it's",
    'say "hi"',
    "$HOME $$ $(HOME)",
    "`id` $(id)",
    "a#b %c; d & e > f",
    "back\\slash\\n",
    "Amélie (2001) 映画",
    "--help",
    "-1",
    "text: a title",
    "id:7",
]


class Recorder:
    """Keeps the requests and tokens that come, and answers with one item."""

    def __init__(self) -> None:
        self.requests: list[pb.RecommendRequest] = []
        self.tokens: list[object] = []

    def recommend(self, request: pb.RecommendRequest, context: grpc.ServicerContext) -> pb.RecommendResponse:
        self.requests.append(request)
        self.tokens.append(dict(context.invocation_metadata() or ()).get("authorization"))
        return pb.RecommendResponse(items=[pb.RankedItem(item_id="1", title="an answer")])


@contextmanager
def recording(host: str = "127.0.0.1", identity: Identity | None = None) -> Iterator[tuple[Recorder, int]]:
    """A server that records, and its port."""
    recorder = Recorder()
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        handler = grpc.unary_unary_rpc_method_handler(
            recorder.recommend, pb.RecommendRequest.FromString, pb.RecommendResponse.SerializeToString
        )
        service = grpc.method_handlers_generic_handler("swiftrec.v1.RecommenderService", {"Recommend": handler})
        server.add_generic_rpc_handlers((service,))
        if identity:
            credentials = grpc.ssl_server_credentials([(identity.secret, identity.chain)])
            port = server.add_secure_port(f"{host}:0", credentials)
        else:
            port = server.add_insecure_port(f"{host}:0")
        server.start()
        yield recorder, port
        server.stop(0).wait()


def settings(**given: object) -> ServerSettings:
    return ServerSettings.model_validate({"bundle": [Path("x")]} | given)


def run(command: str) -> str:
    """What the command prints in a shell."""
    program = f"{shlex.quote(sys.executable)} -m swiftrec ask"
    typed = command.replace("swiftrec ask", program, 1)
    ended = subprocess.run(typed, shell=True, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("word", _NASTY)
def test_command_sends_the_texts_of_the_bundle_unchanged(word: str) -> None:
    items = [Item("7", f"{word} (1995)", "", {"year": ["1995"], "genre": [word]}, 1.0)]
    with recording() as (recorder, port):
        assert "an answer" in run(hint(settings(), port, items))
    assert [request.query for request in recorder.requests] == [word]
    assert list(recorder.requests[0].history) == [pb.Event(text=f"{word} (1995)"), pb.Event(item_id="7")]


def test_command_shows_settings_that_differ_from_the_default() -> None:
    film = Item("50", "Star Wars (1977)", "", {"genre": ["Action"]}, 1.0)
    assert hint(settings(), 8001, [film]) == "swiftrec ask --query=Action --history='Star Wars (1977)|50'"
    assert hint(settings(), 9000, [film]).startswith("swiftrec ask --address=127.0.0.1:9000 --query=Action")
    assert hint(settings(host="localhost"), 8001, [film]).startswith("swiftrec ask --address=localhost:8001 --query")


def test_command_starts_with_a_program_that_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "swiftrec"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    assert program_as_typed(str(program)) == str(program)
    assert program_as_typed(".venv/bin/swiftrec") == ".venv/bin/swiftrec"
    assert program_as_typed("/a/checkout/swiftrec/__main__.py") == "swiftrec"
    monkeypatch.setenv("PATH", str(program.parent))
    assert program_as_typed(str(program)) == "swiftrec"
    assert hint(settings(), 8001, [], program="a folder/swiftrec") == "'a folder/swiftrec' ask"


def test_ipv6_and_wildcards_are_addresses_that_a_client_can_use() -> None:
    film = Item("50", "Star Wars (1977)", "", {"genre": ["Action"]}, 1.0)
    with recording("[::1]") as (recorder, port):
        run(hint(settings(host="[::1]"), port, [film]))
        run(hint(settings(host="::", allow_remote=True), port, [film]))
    assert [request.query for request in recorder.requests] == ["Action", "Action"]
    assert "0.0.0.0" not in hint(settings(host="0.0.0.0", allow_remote=True), 8001, [film])  # noqa: S104


def test_tls_and_token_are_shown_by_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    identity = Identity(folder)
    tokens = put(folder / "tokens", f"# ours\n\n{TOKEN}\nanother-token-of-ours\n".encode())
    film = Item("50", "Star Wars (1977)", "", {"genre": ["Action"]}, 1.0)
    secured = settings(tls_cert=identity.cert, tls_key=identity.key, token_file=tokens)
    with recording(identity=identity) as (recorder, port):
        command = hint(secured, port, [film])
        assert "an answer" in run(command)
    assert recorder.tokens == [f"Bearer {TOKEN}"]
    assert TOKEN not in command


def test_command_shows_a_host_of_the_certificate(tmp_path: Path) -> None:
    identity = Identity(tmp_path, "localhost")
    film = Item("50", "Star Wars (1977)", "", {"genre": ["Action"]}, 1.0)
    with recording(identity=identity) as (recorder, port):
        run(hint(settings(tls_cert=identity.cert, tls_key=identity.key), port, [film]))
    assert len(recorder.requests) == 1
    other = Identity(tmp_path, "recommender.example")
    command = hint(settings(tls_cert=other.cert, tls_key=other.key), 8001, [film])
    assert "--address=recommender.example:8001" in shlex.split(command)


def test_command_shows_the_flags_for_client_certificates(tmp_path: Path) -> None:
    identity = Identity(tmp_path)
    mutual = settings(tls_cert=identity.cert, tls_key=identity.key, tls_client_ca=identity.ca)
    assert "--tls-cert CLIENT_CERTIFICATE --tls-key CLIENT_KEY" in hint(mutual, 8001, [])


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], AskRequest()),
        ([Item("tt1", "", "", {}, 1.0)], AskRequest()),
        ([Item("7", "1984", "", {}, 1.0)], AskRequest(history="7")),
        ([Item("7", "One\\", "", {"genre": ["x"]}, 1.0)], AskRequest("x", "7")),
        ([Item("a", "One|Two", "", {"genre": ["x"]}, 1.0)], AskRequest("x")),
        ([Item("a", "two\nlines", "", {"genre": ["x" * 81, "\u200b", "y"]}, 1.0)], AskRequest("y")),
        (
            [Item("a", "Alien", "", {}, 2.0), Item("b", "Heat", "", {"genre": ["Crime"]}, 1.0)],
            AskRequest("Crime", "Heat"),
        ),
    ],
)
def test_example_uses_titles_that_can_be_typed(items: list[Item], expected: AskRequest) -> None:
    assert example(items) == expected


@pytest.mark.parametrize("text", ["", "# only a remark\n", "# a remark\u2028of one line\n", "\n \n"])
def test_token_file_without_a_token_gives_none(tmp_path: Path, text: str) -> None:
    assert read_token(put(tmp_path / "tokens", text.encode())) == ""
