"""A server in a process of its own prints a command that works as it is, with TLS, a token and titles of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from swiftrec.server.catalogue.catalogue import ITEMS
from swiftrec.server.models.bundle import Bundle
from tests.conftest import ROOT
from tests.files import put
from tests.server import bundles
from tests.server.secure import TOKEN, Identity
from tests.server.test_hint import run

_TITLE = '`id` $HOME "quoted" it\'s'


def rename_items(folder: Path, title: str) -> None:
    """Give every item this title, and as its only attribute a value that begins with it."""
    rows = [json.loads(line) for line in (folder / ITEMS).read_bytes().splitlines()]
    renamed = [row | {"title": title, "attributes": {"kind": [f"{title} kind"]}} for row in rows]
    bundles.replace(folder / ITEMS, "\n".join(map(json.dumps, renamed)).encode())


def test_printed_command_works_with_tls_and_token(bundle: Bundle, tmp_path: Path) -> None:
    folder = bundles.copy(bundle, tmp_path / "a, folder" / "1")
    rename_items(folder, _TITLE)
    bundles.seal(folder, 1)
    identity, tokens = Identity(tmp_path), put(tmp_path / "tokens", f"# ours\n{TOKEN}\n".encode())
    command = [
        sys.executable,
        "-m",
        "swiftrec.server",
        "--bundle",
        str(folder.parent),
        "--port",
        "0",
        "--metrics-port",
        "0",
    ]
    command += ["--tls-cert", str(identity.cert), "--tls-key", str(identity.key), "--token-file", str(tokens)]
    command += ["--host", "[::1]"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            ready, tried = process.stdout.readline(), process.stdout.readline()
            assert " on [::1]:" in ready
            assert tried.startswith("try: ")
            printed = run(tried.removeprefix("try: ").strip())
        finally:
            process.terminate()
    assert "ranked by model; events used: 2" in printed
    assert "`id` $HOME" in printed
    assert TOKEN not in tried
