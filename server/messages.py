"""Parses and serialises messages, and limits their size.

If gRPC itself rejects a message that is too large, on either side, the status is that of a full server and clients
retry. So the server reads larger requests than it accepts, and checks each response before sending it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from swiftrec.server.errors import InvalidRequest, MessageTooLarge

M = TypeVar("M", bound=Message)
DEFAULT_BYTES = 4_194_304  # gRPC's default limit on both sides
FLOAT_BYTES = 4
_READ_FACTOR = 4
_MAX_OPTION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class MessageLimits:
    """Limits of messages.

    Args:
        request_bytes: of a request.
        response_bytes: of a response; 0 for no limit.
    """

    request_bytes: int = DEFAULT_BYTES
    response_bytes: int = DEFAULT_BYTES

    def check_request(self, size: int) -> None:
        """Check the size of a request.

        Raises:
            MessageTooLarge: it is over the limit.
        """
        if size > self.request_bytes:
            raise MessageTooLarge(
                f"the request has {size} bytes, more than --max-message-bytes ({self.request_bytes}): send fewer "
                "entries or shorter texts in one request, or raise that setting"
            )

    def check_response(self, size: int) -> None:
        """Check the size of a response, or a lower bound of it before the models run.

        Raises:
            MessageTooLarge: it is over the limit.
        """
        if self.response_bytes and size > self.response_bytes:
            raise MessageTooLarge(
                f"the response has at least {size} bytes, more than --max-response-bytes ({self.response_bytes}): ask "
                "for fewer entries or fewer items in one request, or raise that setting and the client's "
                "grpc.max_receive_message_length"
            )

    def encode(self, response: Message) -> bytes:
        """Serialise a response.

        Raises:
            MessageTooLarge: it is over the limit.
        """
        data = response.SerializeToString()
        self.check_response(len(data))
        return data


def read_bytes(request_bytes: int) -> int:
    """The size up to which gRPC reads messages, if requests may have `request_bytes`."""
    return min(_READ_FACTOR * request_bytes, _MAX_OPTION)


def decode(kind: type[M], data: bytes) -> M:
    """Parse a message.

    Raises:
        InvalidRequest: it is malformed.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise InvalidRequest("", f"malformed protobuf: not a {name}, or a text in it is not UTF-8") from None
