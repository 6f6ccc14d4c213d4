"""A bare HTTP server for the limit of the client: it returns the same ten ids for every request."""

from __future__ import annotations

import asyncio
import json
import os

_BODY = json.dumps([str(n) for n in range(10)]).encode()
_REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class Echo(asyncio.Protocol):
    """Treats each piece of data as a request: the client sends each in one piece and then waits."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 (the protocol's signature)
        """CheckedResponse."""
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.write(_REPLY)


async def main() -> None:
    """Serve until SIGTERM."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", int(os.environ["PEER_PORT"]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
