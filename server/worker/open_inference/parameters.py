"""Parameters of a request: timeout, priority, and those that Triton's clients send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tritonclient.grpc import service_pb2 as pb

from swiftrec.server.domain import DEFAULT_PRIORITY
from swiftrec.server.errors import InvalidInput, InvalidRequest
from swiftrec.server.worker.validate import check_name, to_priority

FINAL = "triton_enable_empty_final_response"


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a request."""

    timeout_s: float | None = None
    priority: int = DEFAULT_PRIORITY
    bundle: str = ""
    exclude_history: bool | None = None
    wants_final: bool = False


def read_parameters(given: Mapping[str, pb.InferParameter]) -> Parameters:
    """Check and convert parameters. Unknown ones are ignored, as in Triton.

    Raises:
        InvalidRequest: names the parameter.
    """
    for name in given:
        if name.startswith("triton_") and name != FINAL:
            raise InvalidInput(
                name,
                "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified: "
                f"{name}",
            )
    timeout_us = int_param(given, "timeout") or 0
    if timeout_us < 0:
        raise InvalidInput("timeout", f"timeout: microseconds, must not be negative, got {timeout_us}")
    return Parameters(
        timeout_s=timeout_us / 1e6 if timeout_us else None,
        priority=to_priority(int_param(given, "priority") or 0),
        bundle=str_param(given, "bundle"),
        exclude_history=bool_param(given, "exclude_history"),
        wants_final=bool_param(given, FINAL) or False,
    )


def int_param(given: Mapping[str, pb.InferParameter], name: str) -> int | None:
    """An integer parameter, or None if it is not given."""
    if name not in given:
        return None
    kind = given[name].WhichOneof("parameter_choice")
    if kind not in {"int64_param", "uint64_param"}:
        raise InvalidInput(name, f"invalid value type for '{name}' parameter, expected int64_param")
    return int(getattr(given[name], kind))


def str_param(given: Mapping[str, pb.InferParameter], name: str) -> str:
    """A string parameter, or "" if it is not given."""
    if name not in given:
        return ""
    if given[name].WhichOneof("parameter_choice") != "string_param":
        raise InvalidInput(name, f"invalid value type for '{name}' parameter, expected string_param")
    try:
        return check_name(str(given[name].string_param), name)
    except InvalidRequest as error:
        raise InvalidInput(name, f"{name}: {error.reason}") from None


def bool_param(given: Mapping[str, pb.InferParameter], name: str) -> bool | None:
    """A boolean parameter, or None if it is not given."""
    if name not in given:
        return None
    if given[name].WhichOneof("parameter_choice") != "bool_param":
        raise InvalidInput(name, f"invalid value type for '{name}' parameter, expected bool_param")
    return bool(given[name].bool_param)
