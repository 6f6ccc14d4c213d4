"""What can go wrong, in domain words. One table at the edge (`server.status`) maps them to gRPC.

SwiftrecError         base
├─ ConfigError        a setting is wrong: exit code 2
├─ BundleError        a bundle is missing, damaged or does not fit: exit code 2
├─ ProviderError      the device that was asked for is not the one that would run: exit code 2
├─ Unauthenticated    the call has no valid token
├─ RequestMissing     the call has no request, or its request did not come in time
├─ InvalidRequest     a field of a request is wrong
├─ MessageTooLarge    a request or its response has more bytes than it may
├─ NotFound           no such bundle, version or model is loaded
├─ NotServing         no bundle is loaded yet
├─ Busy               another bundle is being loaded or unloaded
├─ Overloaded         the queue is full, or the answer would come too late
├─ DeadlineExceeded   the answer would come too late, or did
├─ Cancelled          nobody waits for the answer any more
├─ ShuttingDown       the server stops
├─ Unsupported        the protocol knows this, this server does not
├─ ModelFailed        the model raised on this input
└─ InternalError      our own code failed on this request; the log has the traceback
"""

from __future__ import annotations


class SwiftrecError(Exception):
    """Base of everything that the server can say."""


class ConfigError(SwiftrecError):
    """A setting is wrong."""


class BundleError(SwiftrecError):
    """A bundle is missing, damaged or does not fit."""


class ProviderError(SwiftrecError):
    """The device that was asked for is not the one that would run."""


class Unauthenticated(SwiftrecError):  # noqa: N818
    """The call has no valid token."""


class RequestMissing(SwiftrecError):  # noqa: N818
    """The call has no request, or its request did not come in time."""


class InvalidRequest(SwiftrecError):  # noqa: N818 (reads as the state it names)
    """A field of a request is wrong.

    Args:
        field: which, by the names of the contract.
        rule: what is wrong, in our words and numbers, so that it may be logged.
        quote: the rest of the sentence, which quotes the request or the catalogue: for the client only.
    """

    def __init__(self, field: str, rule: str, quote: str = "") -> None:
        self.field, self.rule, self.quote = field, rule, quote
        self.reason = rule + quote
        super().__init__(f"{field}: {self.reason}" if field else self.reason)


class InvalidInput(InvalidRequest):
    """An input or parameter of the Open Inference Protocol is wrong; the sentence names it as Triton does.

    Field and sentence may quote the request.
    """

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(field, "", sentence)
        self.args = (sentence,)


class MessageTooLarge(SwiftrecError):  # noqa: N818
    """A request or its response has more bytes than it may: the same request will never be answered."""


class NotFound(SwiftrecError):  # noqa: N818
    """No such bundle, version or model is loaded."""


class NotServing(SwiftrecError):  # noqa: N818
    """No bundle is loaded yet."""


class Busy(SwiftrecError):  # noqa: N818
    """Another bundle is being loaded or unloaded."""


class Unsupported(SwiftrecError):  # noqa: N818
    """The protocol knows this, this server does not."""


class Overloaded(SwiftrecError):  # noqa: N818
    """The queue is full, or the response would be late; try again after `retry_after` seconds.

    Args:
        retry_after: seconds.
        reason: for the client; Triton's clients look for the words of the default.
    """

    def __init__(self, retry_after: float, reason: str = "Exceeds maximum queue size: the server is full") -> None:
        super().__init__(f"{reason}, try again in {retry_after:.2f} s")
        self.retry_after = retry_after


class DeadlineExceeded(SwiftrecError):  # noqa: N818
    """The answer would come too late, or did."""


class Cancelled(SwiftrecError):  # noqa: N818
    """Nobody waits for the answer any more."""


class ShuttingDown(SwiftrecError):  # noqa: N818
    """The server stops."""


class ModelFailed(SwiftrecError):  # noqa: N818
    """The model raised on this input."""


class InternalError(SwiftrecError):
    """Our own code failed on this request; clients are told nothing else."""


def internal_error(cause: Exception) -> InternalError:
    """An error for the client, whose cause is for the log."""
    error = InternalError("internal error")
    error.__cause__ = cause
    return error
