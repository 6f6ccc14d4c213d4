"""The client of `make ask` shows its certificate to a server that asks for one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import trustme

from examples import ask
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """An authority, and a certificate of it with its key, which server and client share here."""
    authority, paths = trustme.CA(), {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(paths["ca"])
    issued.cert_chain_pems[0].write_to_path(paths["cert"])
    issued.private_key_pem.write_to_path(paths["key"])
    return paths


@pytest.fixture
def address(files: dict[str, Path]) -> Iterator[str]:
    """A server that wants certificates and has no method: it answers every call with UNIMPLEMENTED."""
    pair = (files["key"].read_bytes(), files["cert"].read_bytes())
    credentials = grpc.ssl_server_credentials([pair], files["ca"].read_bytes(), require_client_auth=True)
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        port = server.add_secure_port("localhost:0", credentials)
        server.start()
        yield f"localhost:{port}"
        server.stop(0).wait()


def code_of_a_call(channel: grpc.Channel) -> grpc.StatusCode:
    with channel, pytest.raises(grpc.RpcError) as caught:
        RecommenderServiceStub(channel).Recommend(pb.RecommendRequest(), timeout=10)
    code = caught.value.code()
    assert isinstance(code, grpc.StatusCode)
    return code


def test_certificate_opens_the_door(address: str, files: dict[str, Path]) -> None:
    channel = ask.connect(address, files["ca"], files["cert"], files["key"])
    assert code_of_a_call(channel) is grpc.StatusCode.UNIMPLEMENTED


def test_door_stays_shut_without_a_certificate(address: str, files: dict[str, Path]) -> None:
    assert code_of_a_call(ask.connect(address, files["ca"])) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "flags", [("--tls-cert", "c"), ("--tls-ca", "a", "--tls-key", "k"), ("--tls-cert", "c", "--tls-key", "k")]
)
def test_half_of_a_pair_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ask", *flags])
    with pytest.raises(SystemExit):
        ask.main()
    assert "go together" in capsys.readouterr().err
