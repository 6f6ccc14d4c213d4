"""Connects to a running server, with or without TLS and a token, and checks that it serves the right bundle."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from pydantic import Field
from pydantic_settings import BaseSettings

from swiftrec.benchmarks.workload import MethodName
from swiftrec.server.models.bundle import MANIFEST, Manifest, find_bundle
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import (
    BatchRecommendRequest,
    RecommendRequest,
    RecommendResponse,
)
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub

CallMetadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a server. Both are files: a token in a flag would be visible in the list of processes.

    Attributes:
        tls_ca: PEM authority of the server's certificate; None: plaintext.
        token_file: its first line is the bearer token.
    """

    tls_ca: Path | None = None
    token_file: Path | None = None

    def channel(self, target: str, options: Sequence[tuple[str, int]] = ()) -> grpc.Channel:
        """A channel to HOST:PORT.

        Raises:
            OSError: the authority cannot be read.
        """
        if self.tls_ca is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(self.tls_ca.read_bytes()), options)

    def metadata(self) -> CallMetadata:
        """Metadata of each call.

        Raises:
            OSError: the token cannot be read.
            RuntimeError: its file is empty.
        """
        if self.token_file is None:
            return ()
        token = self.token_file.read_text(encoding="utf-8").partition("\n")[0].strip()
        if not token:
            raise RuntimeError(f"{self.token_file}: its first line is empty: --token-file needs a token there")
        return (("authorization", f"Bearer {token}"),)

    def flags(self) -> dict[str, Path | None]:
        """Flags for another tool of this package."""
        return {"tls_ca": self.tls_ca, "token_file": self.token_file}

    def refused(self, target: str) -> RuntimeError:
        """The error if a server listens but no connection can be made."""
        if self.tls_ca is None:
            return RuntimeError(
                f"the server at {target} does not accept plaintext: give --tls-ca if it serves with TLS"
            )
        return RuntimeError(
            f"no TLS with the server at {target}: {self.tls_ca} must hold the authority of its certificate, and the "
            "certificate the name in --target; leave --tls-ca out for plaintext"
        )

    def denied(self, target: str) -> RuntimeError:
        """The error if the server rejects the token."""
        if self.token_file is None:
            return RuntimeError(f"the server at {target} requires a token: give --token-file")
        return RuntimeError(
            f"the server at {target} rejects the token on the first line of {self.token_file}: "
            "give a --token-file with one of the server's tokens"
        )


PLAIN = Access()


class TlsSettings(BaseSettings):
    """The flag of a tool that forwards its clients' tokens."""

    tls_ca: Path | None = Field(None, description="PEM authority of the server's certificate: use TLS")

    @property
    def access(self) -> Access:
        """How to reach the server."""
        return Access(self.tls_ca)


class AccessSettings(TlsSettings):
    """The flags of a tool that calls a running server."""

    token_file: Path | None = Field(None, description="file whose first line is the bearer token")

    @property
    def access(self) -> Access:
        """How to reach the server."""
        return Access(self.tls_ca, self.token_file)


_CONNECT_S = 10.0
_PROBE_S = 1.0
_NONE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAUTHENTICATED}
_START = "start a server there (swiftrec serve), or give the address of a running one"


def wait_ready(channel: grpc.Channel, target: str, access: Access = PLAIN) -> None:
    """Wait until the connection is made.

    Raises:
        RuntimeError: nothing responds, or not with this access.
    """
    try:
        grpc.channel_ready_future(channel).result(_CONNECT_S)
    except grpc.FutureTimeoutError:
        silent = RuntimeError(f"nothing responds at {target}: {_START}")
        raise (access.refused(target) if _is_listening(target) else silent) from None


def _is_listening(target: str) -> bool:
    host, _, port = target.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PROBE_S):
            return True
    except (OSError, ValueError):
        return False


def no_answer(target: str, error: grpc.RpcError, access: Access = PLAIN) -> RuntimeError:
    """The error if the first request failed."""
    if _code(error) is grpc.StatusCode.UNAUTHENTICATED:
        return access.denied(target)
    return RuntimeError(f"no response at {target} ({getattr(error, 'details', str)()}): {_START}")


def check_bundle(target: str, response: RecommendResponse, manifest: Manifest) -> None:
    """Check that the response is from the bundle with this manifest.

    Raises:
        RuntimeError: it is from another one.
    """
    if (response.bundle, response.version) != (manifest.name, manifest.version):
        raise RuntimeError(
            f"the server at {target} serves {response.bundle} version {response.version}, but the requests would be of "
            f"{manifest.name} version {manifest.version}: give --bundle the served one"
        )


def check_source(target: str, bundle: Path, measured: MethodName, access: Access = PLAIN) -> None:
    """Check that the server serves the bundle at `bundle`; a bare server, which does not rank, passes.

    The empty request is of another method than the `measured` one, so that no model runs and neither a recording nor a
    figure contains it.

    Raises:
        RuntimeError: nothing responds, not with this access, or another bundle is served.
        BundleError: there is no bundle.
    """
    manifest = Manifest.model_validate_json((find_bundle(bundle) / MANIFEST).read_bytes())
    with access.channel(target) as channel:
        wait_ready(channel, target, access)
        try:
            response = _first_response(RecommenderServiceStub(channel), measured, access.metadata())
        except grpc.RpcError as error:
            if _code(error) in _NONE:
                raise no_answer(target, error, access) from None
            return  # it is full, or bare: the measurement will show it
    if response.items:
        check_bundle(target, response, manifest)


def _first_response(service: RecommenderServiceStub, measured: MethodName, metadata: CallMetadata) -> RecommendResponse:
    empty = RecommendRequest()
    if measured != "recommend":
        return service.Recommend(empty, timeout=_CONNECT_S, metadata=metadata)
    entries = BatchRecommendRequest(requests=[empty])
    results = service.BatchRecommend(entries, timeout=_CONNECT_S, metadata=metadata).results
    return results[0].response if results else RecommendResponse()


def _code(error: Any) -> grpc.StatusCode:  # noqa: ANN401 (gRPC's error has no public type)
    code: grpc.StatusCode = error.code()
    return code
