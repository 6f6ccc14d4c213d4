"""The house stays in order: who may import whom, and stubs that are the contract's."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT

# What the files of a room may import of server beside their own room, the errors and the array types: rooms, files at
# the top, a module.
_MAY_IMPORT = {
    "front": {"addresses", "batching.admission", "config", "messages", "status", "telemetry", "ticket"},
    "worker": {
        *("batching", "catalogue", "messages", "domain", "models", "pb", "pipeline", "status", "telemetry"),
        *("text", "ticket"),
    },
    "pipeline": {"batching", "catalogue", "domain", "models", "telemetry"},
    "batching": set(),
    "tuning": {"batching", "config", "models", "parts", "pipeline"},
    "models": {"parts"},
    "catalogue": {"domain", "parts"},
    "domain": set(),
    "telemetry": {"output"},
    "ticket": {"telemetry"},
    "messages": set(),
    "status": set(),
    "config": {"addresses", "models.device", "parts", "variables"},
    "settings_reader": {"help_formatter", "output", "renames", "variables", "version"},
    "arrays": set(),
    "errors": set(),
    "output": set(),
    "addresses": set(),
    "help_formatter": set(),
    "parts": set(),
    "renames": set(),
    "variables": set(),
    "version": set(),
}
_MAX_FILE_LINES = 300
_HEAVY = {"torch", "transformers", "optimum", "onnx", "export", "benchmarks"}
_GRPC = {"grpc", "grpc_health", "grpc_reflection", "grpc_status", "asyncio"}
# `google.rpc`, the messages of a status, is everybody's.
_MAY_USE_GRPC = ("front/", "readiness.py", "services.py", "worker/open_inference/servicer.py", "pb/")
_PRIVATE_GRPC = re.compile(r"grpc\._(server|cython)|cygrpc")


def imports(source: str) -> set[str]:
    """Every module that a source file imports, wherever the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in {"swiftrec", "swiftrec.server"}:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def forbidden(file: str, source: str) -> set[str]:
    """Imports in a file of server/ that point the wrong way."""
    room = file.partition("/")[0].removesuffix(".py")
    wrong = set()
    for name in imports(source):
        package, _, module = name.removeprefix("swiftrec.").partition(".")
        if package in _HEAVY or (package in _GRPC and not file.startswith(_MAY_USE_GRPC)):
            wrong.add(name)
        if package == "server" and room in _MAY_IMPORT:
            allowed = _MAY_IMPORT[room] | {"arrays", "errors", room}
            if not {module, module.partition(".")[0]} & allowed:
                wrong.add(name)
    return wrong


def test_server_imports_follow_the_allowed_arrows() -> None:
    wrong = {}
    for path in (ROOT / "server").rglob("*.py"):
        file = str(path.relative_to(ROOT / "server"))
        if not file.startswith("pb/") and (imported := forbidden(file, path.read_text())):
            wrong[file] = imported
    assert wrong == {}


def test_every_folder_has_its_allowed_imports() -> None:
    rooms = {path.parent.name for path in (ROOT / "server").glob("*/__init__.py")}
    assert rooms - {"pb"} <= set(_MAY_IMPORT)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/bundle.py", "import torch"),
        ("app.py", "from swiftrec import export"),
        ("catalogue/exact.py", "from swiftrec.server import models"),
        ("domain.py", "from swiftrec.server.catalogue.catalogue import Catalogue"),
        ("catalogue/exact.py", "from swiftrec.server.models.bundle import Bundle"),
        ("pipeline/recommend.py", "import grpc"),
        ("worker/loop.py", "import grpc"),
        ("worker/loop.py", "from swiftrec.server.front.link import Link"),
        ("batching/scheduler.py", "import asyncio"),
        ("batching/scheduler.py", "from swiftrec.server.domain import Request"),
        ("front/link.py", "from swiftrec.server.batching.scheduler import Limits"),
        ("front/link.py", "from swiftrec.server.worker.loop import WorkerThread"),
        ("front/middleware.py", "from swiftrec.server.pipeline.recommender import Recommender"),
        ("status.py", "import grpc_status"),
        ("telemetry/http.py", "from swiftrec.server.config import ServerSettings"),
    ],
)
def test_arrow_check_detects_a_wrong_import(file: str, line: str) -> None:
    assert forbidden(file, f"def f():\n    {line}\n")


def too_long(files: Mapping[str, str]) -> list[str]:
    """Files with more lines than one subject needs."""
    return [file for file, text in files.items() if len(text.splitlines()) > _MAX_FILE_LINES]


def test_every_file_has_one_subject() -> None:
    packages = ("server", "export", "benchmarks", "swiftrec")
    paths = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    files = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    assert too_long({file: text for file, text in files.items() if not file.startswith("server/pb/")}) == []


def test_file_that_is_too_long_is_detected() -> None:
    assert too_long({"a.py": "pass\n" * 300, "b.py": "pass\n" * 301}) == ["b.py"]


def test_only_one_file_uses_private_names_of_grpcio() -> None:
    files = [path for room in ("server", "benchmarks", "export") for path in (ROOT / room).rglob("*.py")]
    users = {str(path.relative_to(ROOT)) for path in files if _PRIVATE_GRPC.search(path.read_text())}
    assert users == {"server/front/grpc_adapter.py"}


def test_stubs_match_the_contract(tmp_path: Path) -> None:
    protos = [
        str(Path("swiftrec/server/pb") / p.relative_to(ROOT / "proto")) for p in (ROOT / "proto").rglob("*.proto")
    ]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iswiftrec/server/pb=proto"]
    command += [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    subprocess.run([*command, *protos], cwd=ROOT, check=True)
    for made in tmp_path.rglob("*.py"):
        committed = ROOT / made.relative_to(tmp_path)
        assert committed.read_text() == made.read_text(), f"{committed} differs from proto/: run make proto"


def test_importing_the_server_does_not_import_torch() -> None:
    heavy = "{'torch', 'transformers', 'optimum', 'onnx'}"
    code = f"import sys, swiftrec.server.app; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
