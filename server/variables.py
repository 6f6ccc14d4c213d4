"""Environment variables with our prefix: those that set nothing, and one that holds several folders."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping

# Prefixes of other programs of this project, which begin with the server's prefix.
_OTHER_PREFIXES = ("SWIFTREC_EXPORT_", "SWIFTREC_ASK_", "SWIFTREC_PLANTED_")
# Variables that Kubernetes sets in each pod for a Service whose name begins with "swiftrec" (Kubernetes documentation,
# "Accessing the Service"): NAME_SERVICE_HOST, NAME_PORT=tcp://10.0.0.1:8001, NAME_PORT_8001_TCP.
_SERVICE_NAME = re.compile(
    r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.IGNORECASE
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)


def is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes has set the variable for a Service, so that it is not a setting."""
    if _SERVICE_NAME.fullmatch(name):
        return True
    return name.upper().endswith("_PORT") and _SERVICE_URL.match(value) is not None


def unread_variables(environment: Mapping[str, str], prefix: str, fields: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Variables with the prefix that set nothing; empty ones count as not set.

    Args:
        environment: names and values.
        prefix: of the program's variables, such as "SWIFTREC_"; empty: it has none.
        fields: names of its settings.

    Yields:
        The variable, and the most similar variable of a setting, or "" if none is similar.
    """
    known = sorted({f"{prefix}{name}".upper() for name in fields})
    foreign = tuple(other for other in _OTHER_PREFIXES if other != prefix)
    for name, value in sorted(environment.items()):
        upper = name.upper()
        is_ours = value and prefix and upper.startswith(prefix) and not upper.startswith(foreign)
        if is_ours and upper not in known and not is_service_link(name, value):
            yield name, next(iter(difflib.get_close_matches(upper, known, 1, cutoff=0.7)), "")


def split_folders(value: str) -> list[str]:
    """Split a variable at commas into folders; a comma is part of a name if only then the folder exists.

    Raises:
        ValueError: it is ambiguous.
    """
    parts, folders, start = value.split(","), list[str](), 0
    while start < len(parts):
        readings = {end: ",".join(parts[start:end]).strip() for end in range(start + 1, len(parts) + 1)}
        # Path raises an error if a name is too long.
        existing = [end for end, folder in readings.items() if os.path.exists(folder)]  # noqa: PTH110
        if len(existing) > 1:
            first, second = (readings[end] for end in existing[:2])
            raise ValueError(
                f"the variable has commas between folders, and {first} and {second} both exist: use the flag"
            )
        end = existing[0] if existing else start + 1
        folders.append(readings[end])
        start = end
    return [folder for folder in folders if folder]
