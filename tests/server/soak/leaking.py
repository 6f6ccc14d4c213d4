"""A server that keeps every request, which the soak must catch: `python -m tests.server.soak.leaking --bundle DIR`."""

from __future__ import annotations

import sys
from typing import Any

from swiftrec.benchmarks import null_server
from swiftrec.server.settings_reader import read_settings
from swiftrec.server.worker import methods

_KEPT: list[object] = []
_BYTES = 4_096  # for each request: what a forgotten context or tensor would hold


def keeping(kind: Any, data: bytes) -> Any:  # noqa: ANN401 (as `decode`)
    """Decode, and never forget."""
    _KEPT.append((data, bytearray(_BYTES)))
    return _decode(kind, data)


_decode = methods.decode  # type: ignore[attr-defined] # a name that the module does not export

if __name__ == "__main__":
    setattr(methods, "decode", keeping)  # noqa: B010 (the same)
    sys.exit(null_server.run(read_settings(null_server.NullModelSettings, sys.argv[1:])))
