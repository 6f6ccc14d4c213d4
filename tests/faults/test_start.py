"""What keeps a server from starting is said in one sentence, with exit code 2."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from server.config import ServerSettings, read_settings
from server.errors import BundleError, ConfigError, ProviderError
from server.models.bundle import Bundle, load_bundle
from server.models.session import open_session
from tests.conftest import ROOT

_FILES = ("manifest.json", "tokenizer.json", "ranker.onnx", "encoder.fp32.onnx", "items.jsonl", "vectors.npy")


def start(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", *flags]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, env=os.environ | environment
    )


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "1"))


@pytest.mark.parametrize("name", _FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_damaged_bundle_is_refused_by_name(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:  # in the manifest a number, elsewhere a byte
        middle = len(data) // 2
        changed = data.replace(b'"max_history": 64', b'"max_history": 65')
        path.write_bytes(
            changed if name == "manifest.json" else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        )
    with pytest.raises(
        BundleError, match=name if name != "manifest.json" or damage != "missing" else "no manifest.json"
    ):
        load_bundle(copy)


def test_server_refuses_a_damaged_bundle_with_exit_code_2(copy: Path) -> None:
    (copy / "ranker.onnx").write_bytes(b"")
    result = start("--bundle", str(copy), "--port", "0", "--metrics-port", "0")
    assert result.returncode == 2
    assert "ranker.onnx: truncated or changed" in result.stderr
    assert "Traceback" not in result.stderr


def test_server_says_so_when_the_port_is_taken(bundle: Bundle) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for flags in (("--port", f"{port}", "--metrics-port", "0"), ("--port", "0", "--metrics-port", f"{port}")):
            result = start("--bundle", str(bundle.folder), *flags)
            assert result.returncode == 2
            assert f"cannot listen on 127.0.0.1:{port}" in result.stderr


def test_settings_are_refused_with_the_flag_and_the_reason() -> None:
    result = start("--bundle", "x", "--port", "70000", SWIFTREC_MAX_CALLS="0")
    assert result.returncode == 2
    assert "--port: Input should be less than or equal to 65535, got '70000'" in result.stderr
    assert "--max-calls" in result.stderr
    assert "--bundle is required" in start().stderr


def test_remote_bind_is_refused_unless_allowed() -> None:
    with pytest.raises(ConfigError, match="neither TLS nor authentication"):
        read_settings(ServerSettings, ["--bundle", "x", "--host", "0.0.0.0"])  # noqa: S104 (that is the point)
    assert read_settings(ServerSettings, ["--bundle", "x", "--host", "0.0.0.0", "--allow-remote"]).allow_remote  # noqa: S104


def test_absent_device_is_an_error_and_no_fallback(bundle: Bundle) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has the CUDA provider")
    with pytest.raises(ProviderError, match="make setup DEVICE=cuda"):
        open_session(bundle.folder / "ranker.onnx", "cuda")


def test_help_names_every_setting() -> None:
    text = start("--help").stdout
    for name in ServerSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in text
