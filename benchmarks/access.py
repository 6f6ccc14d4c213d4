"""How a server that runs already is reached: in plaintext or with TLS, with a token or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from pydantic import Field
from pydantic_settings import BaseSettings

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Access:
    """What a client needs. Both are files: a token in a flag would stand in the list of processes.

    Attributes:
        tls_ca: PEM authority of the server's certificate; plaintext without it.
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

    def metadata(self) -> Metadata:
        """What each call carries.

        Raises:
            OSError: the token cannot be read.
            RuntimeError: there is none.
        """
        if self.token_file is None:
            return ()
        token = self.token_file.read_text(encoding="utf-8").partition("\n")[0].strip()
        if not token:
            raise RuntimeError(f"{self.token_file}: no token on its first line: --token-file needs one there")
        return (("authorization", f"Bearer {token}"),)

    def flags(self) -> dict[str, Path | None]:
        """For another tool of this package."""
        return {"tls_ca": self.tls_ca, "token_file": self.token_file}

    def refused(self, target: str) -> RuntimeError:
        """What to say where somebody listens and no connection comes about."""
        if self.tls_ca is None:
            return RuntimeError(f"the server at {target} takes no plaintext: give --tls-ca if it serves with TLS")
        return RuntimeError(
            f"no TLS with the server at {target}: {self.tls_ca} must hold the authority of its certificate, and the "
            "certificate the name in --target; without --tls-ca it is plaintext"
        )

    def denied(self, target: str) -> RuntimeError:
        """What to say where the server does not know the token."""
        if self.token_file is None:
            return RuntimeError(f"the server at {target} wants a token: give --token-file")
        return RuntimeError(
            f"the server at {target} does not know the token on the first line of {self.token_file}: "
            "give a --token-file with one of its own"
        )


PLAIN = Access()


class TlsSettings(BaseSettings):
    """The flag of a tool that passes tokens on and has none."""

    tls_ca: Path | None = Field(None, description="PEM authority of the server's certificate: turns TLS on")

    @property
    def access(self) -> Access:
        """To the server."""
        return Access(self.tls_ca)


class AccessSettings(TlsSettings):
    """The flags of a tool that calls a running server."""

    token_file: Path | None = Field(None, description="file whose first line is the bearer token")

    @property
    def access(self) -> Access:
        """To the server."""
        return Access(self.tls_ca, self.token_file)
