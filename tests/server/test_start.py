"""What keeps a server from starting, and the command that it prints after the start."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from swiftrec.server.catalogue.catalogue import ITEMS
from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import BundleError, ConfigError, ProviderError
from swiftrec.server.models.bundle import Bundle, load_bundle
from swiftrec.server.models.session import open_session
from swiftrec.server.parts import TABLES
from swiftrec.server.settings_reader import read_settings
from tests.conftest import ROOT
from tests.files import put
from tests.server.support import bundles
from tests.server.support.secure import TOKEN, Identity
from tests.server.test_hint import run

_FILES = ("manifest.json", "tokenizer.json", "ranker.onnx", "encoder", "items.jsonl", "vectors.npy", *TABLES)


def start(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swiftrec.server", *flags]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, env=os.environ | environment
    )


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "1"))


@pytest.mark.parametrize("name", _FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_damaged_bundle_is_refused_by_name(bundle: Bundle, copy: Path, name: str, damage: str) -> None:
    name = bundle.encoder("cpu", None).name if name == "encoder" else name
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


def test_server_names_the_port_when_it_is_in_use(bundle: Bundle) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for flags in (("--port", f"{port}", "--metrics-port", "0"), ("--port", "0", "--metrics-port", f"{port}")):
            result = start("--bundle", str(bundle.folder), *flags)
            assert result.returncode == 2
            assert f"cannot listen on 127.0.0.1:{port}" in result.stderr


@pytest.mark.parametrize("flag", ["--host", "--metrics-host"])
def test_server_names_the_host_when_it_does_not_resolve(bundle: Bundle, flag: str) -> None:
    flags = ("--port", "0", "--metrics-port", "0", "--allow-remote", flag, "no-such-host.invalid")
    result = start("--bundle", str(bundle.folder), *flags)
    assert result.returncode == 2
    assert f"cannot listen on no-such-host.invalid:0 ({flag}" in result.stderr
    assert "the host does not resolve" in result.stderr
    assert "give an address of this machine" in result.stderr
    assert "Traceback" not in result.stderr


def test_server_warns_of_a_misspelt_variable_and_starts() -> None:
    result = start("--bundle", "no-such-folder", "--port", "0", "--metrics-port", "0", SWIFTREC_PROT="9000")
    assert result.stderr.splitlines()[0].endswith(
        "SWIFTREC_PROT is not a setting and is ignored: did you mean SWIFTREC_PORT?"
    )
    assert "no-such-folder: has no manifest.json" in result.stderr


def test_settings_are_refused_with_the_flag_and_the_reason() -> None:
    result = start("--bundle", "x", "--port", "70000", SWIFTREC_MAX_CALLS="0")
    assert result.returncode == 2
    assert "--port: Input should be less than or equal to 65535, got '70000'" in result.stderr
    assert "--max-calls" in result.stderr
    assert "--bundle is required" in start().stderr


_TLS = ("--tls-cert", "cert.pem", "--tls-key", "key.pem")


@pytest.mark.parametrize(
    ("flags", "lacking"),
    [
        ((), "TLS and authentication"),
        (_TLS, "authentication"),
        (("--token-file", "tokens"), "TLS"),
    ],
)
def test_remote_bind_is_refused_without_tls_and_authentication(flags: tuple[str, ...], lacking: str) -> None:
    remote = ["--bundle", "x", "--host", "0.0.0.0", *flags]  # noqa: S104 (that is the point)
    with pytest.raises(ConfigError, match=f"without {lacking}: use 127.0.0.1, or"):
        read_settings(ServerSettings, remote)
    assert read_settings(ServerSettings, [*remote, "--allow-remote"]).allow_remote


@pytest.mark.parametrize("flags", [("--token-file", "tokens"), ("--tls-client-ca", "ca.pem")])
def test_remote_bind_is_allowed_with_tls_and_authentication(flags: tuple[str, ...]) -> None:
    settings = read_settings(ServerSettings, ["--bundle", "x", "--host", "0.0.0.0", *_TLS, *flags])  # noqa: S104
    assert settings.metrics_host == "127.0.0.1"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--tls-cert", "x"), "--tls-cert needs --tls-key: give both or neither"),
        (("--tls-key", "x"), "--tls-key needs --tls-cert: give both or neither"),
        (("--tls-client-ca", "x"), "--tls-client-ca needs TLS"),
    ],
)
def test_incomplete_tls_settings_are_refused(flags: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_settings(ServerSettings, ["--bundle", "x", *flags])


def test_server_refuses_a_short_token_with_exit_code_2_and_does_not_print_it(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("# ours\nhunter2\n")
    result = start("--bundle", "x", "--token-file", str(tmp_path / "tokens"))
    assert result.returncode == 2
    assert "--token-file" in result.stderr
    assert "line 2: a token is at least 16 visible ASCII characters" in result.stderr
    assert "hunter2" not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_missing_device_is_an_error_without_fallback(bundle: Bundle) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has the CUDA provider")
    with pytest.raises(ProviderError, match=r"pip install 'swiftrec\[gpu\]'"):
        open_session(bundle.folder / "ranker.onnx", "cuda")


def test_help_lists_every_setting() -> None:
    text = start("--help").stdout
    for name in ServerSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in text


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
