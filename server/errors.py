"""The errors of the server. `server.status` maps them to gRPC status codes.

SwiftrecError         base
├─ ConfigError        a setting is wrong: exit code 2
├─ BundleError        a bundle is missing, damaged or incompatible: exit code 2
├─ ProviderError      the requested device cannot be used: exit code 2
├─ Unauthenticated    the call has no valid token
├─ RequestMissing     the call has no request, or its request did not arrive in time
├─ InvalidRequest     a field of a request is invalid
├─ MessageTooLarge    a request or its response is too large
├─ NotFound           no such bundle, version or model is loaded
├─ NotServing         no bundle is loaded yet
├─ Busy               another bundle is being loaded or unloaded
├─ Overloaded         the queue is full, or the response would be too late
├─ DeadlineExceeded   the deadline has passed
├─ Cancelled          the client no longer waits for the response
├─ ShuttingDown       the server is stopping
├─ Unsupported        a feature of the protocol that this server does not have
├─ ModelFailed        the model failed on this input
└─ InternalError      an unexpected error; the log has the traceback
"""

from __future__ import annotations


class SwiftrecError(Exception):
    """Base of the errors of the server."""


class ConfigError(SwiftrecError):
    """A setting is invalid."""


class BundleError(SwiftrecError):
    """A bundle is missing, damaged or incompatible."""


class ProviderError(SwiftrecError):
    """The requested device cannot be used."""


class Unauthenticated(SwiftrecError):  # noqa: N818
    """The call has no valid token."""


class RequestMissing(SwiftrecError):  # noqa: N818
    """The call has no request, or its request did not arrive in time."""


class InvalidRequest(SwiftrecError):  # noqa: N818 (reads as the state it names)
    """A field of a request is invalid.

    Args:
        field: its name in the contract.
        rule: the rule that it violates; contains no data of the request, so that it can be logged.
        quote: the rest of the message, which quotes the request or the catalogue, for the client only.
    """

    def __init__(self, field: str, rule: str, quote: str = "") -> None:
        self.field, self.rule, self.quote = field, rule, quote
        self.reason = rule + quote
        super().__init__(f"{field}: {self.reason}" if field else self.reason)


class InvalidInput(InvalidRequest):
    """An input or parameter of the Open Inference Protocol is invalid; the message is worded like Triton's.

    Field and message may quote the request.
    """

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(field, "", sentence)
        self.args = (sentence,)


class MessageTooLarge(SwiftrecError):  # noqa: N818
    """A request or its response is too large: repeating the request will not help."""


class NotFound(SwiftrecError):  # noqa: N818
    """No such bundle, version or model is loaded."""


class NotServing(SwiftrecError):  # noqa: N818
    """No bundle is loaded yet."""


class Busy(SwiftrecError):  # noqa: N818
    """Another bundle is being loaded or unloaded."""


class Unsupported(SwiftrecError):  # noqa: N818
    """A feature of the protocol that this server does not have."""


class Overloaded(SwiftrecError):  # noqa: N818
    """The queue is full, or the response would be too late; retry after `retry_after` seconds.

    Args:
        retry_after: seconds.
        reason: for the client; Triton's clients expect the wording of the default.
    """

    def __init__(self, retry_after: float, reason: str = "Exceeds maximum queue size: the server is full") -> None:
        super().__init__(f"{reason}, try again in {retry_after:.2f} s")
        self.retry_after = retry_after


class DeadlineExceeded(SwiftrecError):  # noqa: N818
    """The deadline has passed."""


class Cancelled(SwiftrecError):  # noqa: N818
    """The client no longer waits for the response."""


class ShuttingDown(SwiftrecError):  # noqa: N818
    """The server is stopping."""


class ModelFailed(SwiftrecError):  # noqa: N818
    """The model failed on this input."""


class InternalError(SwiftrecError):
    """An unexpected error; clients see no details."""


def internal_error(cause: Exception) -> InternalError:
    """An error for the client; its cause is logged."""
    error = InternalError("internal error")
    error.__cause__ = cause
    return error
