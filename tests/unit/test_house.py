"""The house stays in order: who may import whom, and stubs that are the contract's."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

_LEAVES = {"telemetry", "config", "errors", "pb", "addresses", "parts", "variables", "version"}
_MAY_IMPORT = {
    "api": {"pipeline", "batching", "models", "catalogue"},
    "pipeline": {"batching", "models", "catalogue"},
    "batching": set(),
    "tuning": {"pipeline", "batching", "models"},
    "models": set(),
    "catalogue": set(),
    "telemetry": {"telemetry"},
    "config": {"errors", "addresses", "parts", "variables", "version"},
    "errors": set(),
    "addresses": set(),
    "parts": set(),
    "variables": set(),
    "version": set(),
}
_HEAVY = {"torch", "transformers", "optimum", "onnx", "export", "benchmarks"}


def imports(source: str) -> set[str]:
    """Every module that a source file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def forbidden(room: str, source: str) -> set[str]:
    """Imports in a file of `room` that point the wrong way."""
    wrong = set()
    for name in imports(source):
        parts = name.split(".")
        if parts[0] in _HEAVY:
            wrong.add(name)
        if parts[0] in {"grpc", "asyncio"} and room not in {"api", "app"}:
            wrong.add(name)
        if parts[0] == "server" and len(parts) > 1 and room in _MAY_IMPORT:
            allowed = _MAY_IMPORT[room] | _LEAVES | {room} if room not in _LEAVES else _MAY_IMPORT[room]
            if parts[1] not in allowed:
                wrong.add(name)
    return wrong


def test_server_imports_follow_the_arrows() -> None:
    wrong = {}
    for path in (ROOT / "server").rglob("*.py"):
        relative = path.relative_to(ROOT / "server")
        room = relative.parts[0].removesuffix(".py")
        if room != "pb" and (found := forbidden(room, path.read_text())):
            wrong[str(relative)] = found
    assert wrong == {}


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("models", "import torch"),
        ("catalogue", "from server.pipeline.domain import Call"),
        ("batching", "import grpc"),
        ("batching", "import asyncio"),
        ("telemetry", "from server.config import ServerSettings"),
    ],
)
def test_arrow_check_catches_a_wrong_import(room: str, line: str) -> None:
    assert forbidden(room, f"def f():\n    {line}\n")


def test_stubs_are_the_contracts(tmp_path: Path) -> None:
    protos = [str(Path("server/pb") / p.relative_to(ROOT / "proto")) for p in (ROOT / "proto").rglob("*.proto")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iserver/pb=proto"]
    command += [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    subprocess.run([*command, *protos], cwd=ROOT, check=True)
    for made in tmp_path.rglob("*.py"):
        committed = ROOT / made.relative_to(tmp_path)
        assert committed.read_text() == made.read_text(), f"{committed} differs from proto/: run make proto"


def test_importing_the_server_brings_no_torch() -> None:
    code = "import sys, server.app; sys.exit(bool({'torch', 'transformers', 'optimum', 'onnx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_makefile_leaves_defaults_to_the_programs_and_passes_every_variable_on() -> None:
    text = (ROOT / "Makefile").read_text()
    assert "?=" not in text
    (listed,) = re.findall(r"^override VARIABLES := ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    names = listed.replace("\\", "").split()
    assert len(names) > 20
    assert len(names) == len(set(names))
    passed = re.findall(r"^\$\(call pass,([^,]+),(\w+),(\w+)\)$", text, re.MULTILINE)
    used = {name for _, name, _ in passed} | set(re.findall(r"\$\(value ([A-Z_]+)\)", text))
    assert used == set(names)
    assert len(passed) == len(set(passed))
    assert not re.findall(rf"\$[({{](?:{'|'.join(names)})[)}}]", text)  # which make would expand
