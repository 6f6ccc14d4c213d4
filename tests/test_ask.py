"""`swiftrec ask`: parsing of its flags, the request it sends, TLS and what it prints."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import trustme

from swiftrec import ask
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """PEM files of an authority and of one certificate with its key, which server and client share."""
    authority, paths = trustme.CA(), {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(paths["ca"])
    issued.cert_chain_pems[0].write_to_path(paths["cert"])
    issued.private_key_pem.write_to_path(paths["key"])
    return paths


@pytest.fixture
def address(files: dict[str, Path]) -> Iterator[str]:
    """Address of a server that requires client certificates and answers every call with UNIMPLEMENTED."""
    pair = (files["key"].read_bytes(), files["cert"].read_bytes())
    credentials = grpc.ssl_server_credentials([pair], files["ca"].read_bytes(), require_client_auth=True)
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        port = server.add_secure_port("localhost:0", credentials)
        server.start()
        yield f"localhost:{port}"
        server.stop(0).wait()


def status_of_call(channel: grpc.Channel) -> grpc.StatusCode:
    with channel, pytest.raises(grpc.RpcError) as caught:
        RecommenderServiceStub(channel).Recommend(pb.RecommendRequest(), timeout=10)
    code = caught.value.code()
    assert isinstance(code, grpc.StatusCode)
    return code


def test_server_accepts_a_client_certificate(address: str, files: dict[str, Path]) -> None:
    channel = ask.connect(address, files["ca"], files["cert"], files["key"])
    assert status_of_call(channel) is grpc.StatusCode.UNIMPLEMENTED


def test_server_rejects_a_client_without_a_certificate(address: str, files: dict[str, Path]) -> None:
    assert status_of_call(ask.connect(address, files["ca"])) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "flags", [("--tls-cert", "c"), ("--tls-ca", "a", "--tls-key", "k"), ("--tls-cert", "c", "--tls-key", "k")]
)
def test_incomplete_tls_files_are_rejected(capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]) -> None:
    assert ask.main([*flags]) == 2
    assert "belong together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("history", "events"),
    [
        ("Toy Story (1995)|50", ["text Toy Story (1995)", "id 50"]),
        (" Toy Story | 50 ||", ["text Toy Story", "id 50"]),
        ("id:ABC|id:50|id: two  blanks ", ["id ABC", "id 50", "id  two  blanks "]),
        ("text:1984|text:id:x|id:text:film", ["text 1984", "text id:x", "id text:film"]),
        (r"id:a\|b|c\|d", ["id a|b", "text c|d"]),
        ("é \"quoted\" `x` $(y) 'z'", ["text é \"quoted\" `x` $(y) 'z'"]),
        ("", []),
    ],
)
def test_history_is_parsed_into_ids_and_texts(history: str, events: list[str]) -> None:
    sent = [
        f"id {e.item_id}" if e.WhichOneof("event") == "item_id" else f"text {e.text}" for e in ask.to_events(history)
    ]
    assert sent == events


@pytest.mark.parametrize(
    ("given", "address"),
    [("::1:8001", "[::1]:8001"), ("[::1]:8001", "[::1]:8001"), ("localhost:1", "localhost:1")],
)
def test_ipv6_address_gets_brackets(given: str, address: str) -> None:
    assert ask.AskSettings(_cli_parse_args=["--address", given]).address == address


@pytest.mark.parametrize(
    "given", ["localhost", "localhost:", ":8001", "localhost:http", "`x`", "127.0.0.1:0", "127.0.0.1:99999"]
)
def test_address_without_host_or_port_is_rejected(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main(["--address", given]) == 2
    assert capsys.readouterr().err.startswith("swiftrec ask: --address: must be host:port, such as localhost:8001")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("unix:/tmp/x:1", "Unix sockets are not served"),
        ("[::1:1", "give an address, such as 127.0.0.1 or ::1"),
        ("http://localhost:1", "without scheme, port or path"),
    ],
)
def test_invalid_host_is_rejected(given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main(["--address", given]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["query", "history", "bundle", "address"])
def test_text_that_is_not_utf8_is_rejected_with_its_flag(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main([f"--{flag}", b"caf\xe9:1".decode(errors="surrogateescape")]) == 2
    assert capsys.readouterr().err.startswith(f"swiftrec ask: --{flag}: is not UTF-8: type it in a terminal ")


def test_missing_token_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main(["--token-file", "no/such/file"]) == 2
    assert (
        capsys.readouterr().err
        == "swiftrec ask: no/such/file: No such file or directory: name a file that can be read\n"
    )


class Echo:
    """Answers with the query as a title that looks like markup, and records the requests."""

    def __init__(self) -> None:
        self.requests: list[pb.RecommendRequest] = []

    def recommend(self, request: pb.RecommendRequest, _: grpc.ServicerContext) -> pb.RecommendResponse:
        self.requests.append(request)
        items, resolved = [pb.RankedItem(title=f"[red]{request.query}")], [pb.ResolvedEvent(index=1, item_id="42")]
        return pb.RecommendResponse(items=items, resolved_events=resolved if len(request.history) > 1 else [])


@pytest.fixture
def echo() -> Iterator[tuple[Echo, int]]:
    """An echo server without TLS, and its port."""
    method = grpc.unary_unary_rpc_method_handler(
        (server_echo := Echo()).recommend,
        request_deserializer=pb.RecommendRequest.FromString,
        response_serializer=pb.RecommendResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("swiftrec.v1.RecommenderService", {"Recommend": method})
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, handlers=[service])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield server_echo, port
        server.stop(0).wait()


def test_text_from_the_environment_is_sent_and_printed_unchanged(
    echo: tuple[Echo, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = '[bold] -x `y` $HOME "z" é'
    monkeypatch.setenv("SWIFTREC_ASK_QUERY", words)
    monkeypatch.setenv("SWIFTREC_ASK_HISTORY", "id:ABC")
    monkeypatch.setenv("SWIFTREC_ASK_TOP_K", "")
    monkeypatch.setenv("MORE", "--top-k 3 --bundle 'a name'")
    assert ask.main(["--address", f"127.0.0.1:{echo[1]}", "--flags-from", "MORE"]) == 0
    (sent,) = echo[0].requests
    assert (sent.query, sent.top_k, sent.bundle) == (words, 3, "a name")
    assert [event.item_id for event in sent.history] == ["ABC"]
    assert f"[red]{words}" in capsys.readouterr().out


def test_texts_that_name_items_are_printed(echo: tuple[Echo, int], capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main(["--address", f"127.0.0.1:{echo[1]}", "--history", "50|Toy Story"]) == 0
    assert "; event 2 is item 42" in capsys.readouterr().out.replace("\n", " ")
