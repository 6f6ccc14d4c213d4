"""A bundle that is not whole or not sound is refused with its reason; the old one serves, and the process lives."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.server.__main__ import main
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import MANIFEST, RANKER, Bundle, load_bundle
from swiftrec.server.models.external_data import external_files
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.probe import probe, try_bundle
from tests.server import bundles
from tests.server.test_swap import Askers, add_version, serving
from tests.until import LONG

_MUTATIONS = 500


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes | None:
    """Flip bytes, cut, lengthen, swap with another file, or delete."""
    kind = rng.randrange(5)
    if kind == 0:
        changed = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(changed))] ^= rng.randint(1, 255)
        return bytes(changed)
    if kind == 1:
        return data[: rng.randrange(len(data))]
    if kind == 2:
        return data + rng.randbytes(rng.randint(1, 64))
    return rng.choice(others) if kind == 3 else None


def test_500_mutated_files_are_refused_by_name_and_the_old_version_serves(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftrec.server.app.probe", lambda *_: None)
    rng = random.Random(7)
    add_version(bundle, tmp_path, 1)
    good = add_version(bundle, tmp_path, 2)
    names = sorted([*load_bundle(good).manifest.files, MANIFEST])
    contents = {name: (good / name).read_bytes() for name in names}
    with serving([tmp_path / "swapped" / "1"]) as app, Askers(app.port, 1) as askers:
        for n in range(_MUTATIONS):
            name = names[n % len(names)]
            others = [data for other, data in contents.items() if other != name]
            changed = mutate(rng, contents[name], others)
            if changed is None:
                (good / name).unlink()
            else:
                bundles.replace(good / name, changed)
            with pytest.raises(BundleError) as caught:
                app.registry.load("swapped", 2)
            assert name in str(caught.value), (n, name, str(caught.value))
            bundles.replace(good / name, contents[name])
            assert [entry.is_ready for entry in app.registry.index()] == [True, False]
        assert (askers.wrong, askers.versions) == ([], {1})
        assert askers.answers > _MUTATIONS / 2
        app.registry.load("swapped", 2)  # restored, it loads
        assert [entry.is_ready for entry in app.registry.index()] == [True, True]


def test_models_of_an_export_hold_their_own_weights(bundle: Bundle) -> None:
    names = [name for name in bundle.manifest.files if name.endswith(".onnx")]
    assert RANKER in names
    assert [external_files(bundle.folder / name) for name in names] == [set()] * len(names)


def vectors(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("encoder", b"", "ONNX Runtime cannot load it"),
        ("ranker.onnx", b"\x08\x07" * 500, "ONNX Runtime cannot load it"),
        ("tokenizer.json", b"{}", "not a tokenizer file"),
        ("items.jsonl", b"not json", "no table of items"),
        ("items.jsonl", b'{"id": "1"}', "no table of items"),
        ("vectors.npy", b"no array", "no vectors"),
        ("vectors.npy", vectors(np.zeros((3, 128), np.float32)), "for 1682 items"),
        ("vectors.npy", vectors(np.zeros((1682, 64), np.float32)), r"64 \+ 128 dimensions"),
        ("vectors.npy", vectors(np.full((1682, 128), np.nan, np.float32)), "not finite"),
        ("vectors.npy", vectors(np.array([{}], dtype=object)), "no vectors"),
        ("sentences.npy", b"no array", "sentences.npy: no vectors"),
        ("transitions-starts.npy", b"no array", "transitions-starts.npy: no table"),
        ("neighbours-positions.npy", vectors(np.zeros(3, np.int32)), "neighbours-starts.npy: its rows do not fit"),
        ("words-terms.npy", vectors(np.array([{}], dtype=object)), "words-terms.npy: no table"),
        ("words-named.npy", vectors(np.zeros(3, np.int64)), "words-named.npy: int64"),
    ],
)
def test_sealed_but_unsound_bundle_is_refused_by_name(
    bundle: Bundle, tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    folder = bundles.copy(bundle, tmp_path / "1")
    bundles.replace(folder / (bundle.encoder("cpu", None).name if name == "encoder" else name), data)
    bundles.seal(folder, 1)
    with pytest.raises(BundleError, match=reason):
        try_bundle(folder, EngineOptions())


def test_child_says_why_it_refuses(bundle: Bundle, tmp_path: Path) -> None:
    folder = bundles.copy(bundle, tmp_path / "1")
    bundles.replace(folder / "ranker.onnx", bundle.encoder("cpu", None).read_bytes())
    bundles.seal(folder, 1)
    with pytest.raises(BundleError, match="a model cannot be run"):
        probe(folder, EngineOptions(), LONG)


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a shell script stand for the child."""
    path = tmp_path / "child"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setattr("swiftrec.server.probe.sys.executable", str(path))


def test_child_that_crashes_is_reported_by_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "kill -SEGV $$")
    with pytest.raises(BundleError, match="in a separate process ended with SIGSEGV"):
        probe(tmp_path, EngineOptions(), LONG)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            r"swiftrec probe: a: ranker.onnx is damaged: export it again\n)\n",
            "a: ranker.onnx is damaged: export it again",
        ),
        (r"\377\376\nswiftrec probe: a is damaged: export it again\n\377\n\n", "a is damaged: export it again"),
        (
            r"Traceback\n  (\nMemoryError: )\n)",
            "FOLDER: loading it failed with exit code 3: run swiftrec probe",
        ),
        (r"", "FOLDER: loading it failed with exit code 3: run swiftrec probe --bundle FOLDER to see why"),
    ],
)
def test_reason_is_a_sentence_however_the_child_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, said: str
) -> None:
    program(tmp_path, monkeypatch, f"printf '{written}' >&2; exit 3")
    with pytest.raises(BundleError) as caught:
        probe(tmp_path, EngineOptions(), LONG)
    assert str(caught.value).startswith(said.replace("FOLDER", str(tmp_path)))
    assert str(caught.value).endswith("export it again")


def test_reason_fits_the_trailers_of_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "echo swiftrec probe: $(seq 9000) >&2; exit 2")
    with pytest.raises(BundleError) as caught:
        probe(tmp_path, EngineOptions(), LONG)
    assert len(str(caught.value)) <= 1_000


def test_reason_of_several_lines_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_argv: list[str]) -> None:
        raise BundleError("a: a model cannot be run (Error:\n  at node 7\n)")

    def leave(code: int) -> NoReturn:
        raise SystemExit(code)

    monkeypatch.setattr("swiftrec.server.__main__._run", fail)
    monkeypatch.setattr("swiftrec.server.__main__.os._exit", leave)
    with pytest.raises(SystemExit):
        main(["probe"])
    assert capsys.readouterr().err == "swiftrec probe: a: a model cannot be run (Error: at node 7 )\n"


def test_child_that_does_not_end_is_stopped_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "exec cat")  # until its stdin ends
    with pytest.raises(BundleError, match=r"not warm .* after 0.2 s: export it again or raise --probe-timeout-s"):
        probe(tmp_path, EngineOptions(), timeout_s=0.2)
