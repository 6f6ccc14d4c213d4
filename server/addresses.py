"""Hosts and ports: validation of hosts and formatting of addresses."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket

MAX_PORT = 65_535
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"  # RFC 1123, and underscores
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what a client on this machine uses instead)


def parse_host(given: str) -> str:
    """Parse an IP address, with or without brackets, or a host name.

    Raises:
        ValueError: it is neither; the message says what to give instead.
    """
    host = given.strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if _ip_address(host) is None or ":" not in host:
            raise ValueError("brackets hold an IPv6 address, as in [::1]")
    if not host:
        raise ValueError("an address or a host name is needed, such as 127.0.0.1")
    if host.startswith(("unix:", "unix-abstract:", "/")):
        raise ValueError("Unix sockets are not served: give an address, such as 127.0.0.1")
    if _ip_address(host) is not None or _NAME.fullmatch(host):
        return host
    if re.fullmatch(r"(\[[^\]]*\]|[^:/]+):\d+", host):
        raise ValueError("the port is another setting: give the host alone")
    raise ValueError("give an address, such as 127.0.0.1 or ::1, or a host name, without scheme, port or path")


def is_loopback(host: str) -> bool:
    """Whether the host can only be reached from this machine."""
    address = _ip_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def join_address(host: str, port: int) -> str:
    """HOST:PORT as in URLs and gRPC targets, with brackets around IPv6 addresses."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable_host(host: str) -> str:
    """The host that a client on this machine connects to if a server listens on `host`."""
    return _WILDCARDS.get(host, host)


def listen_problem(host: str, port: int) -> str:
    """Why this process cannot listen on an address, and what to do; empty if it can."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except socket.gaierror as error:
        return f"the host does not resolve ({error.strerror}): give an address of this machine, such as 127.0.0.1"
    except OSError as error:
        return _BIND_PROBLEMS.get(error.errno or 0, error.strerror or str(error))
    return ""


_BIND_PROBLEMS = {
    errno.EADDRINUSE: "the port is in use: give another port",
    errno.EADDRNOTAVAIL: "this machine does not have that address: give one that it has, such as 127.0.0.1",
    errno.EACCES: "this user may not take that port: give one above 1023",
    errno.EAFNOSUPPORT: "this machine has no such protocol: give an IPv4 address, such as 127.0.0.1",
}


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
