"""Damaged and hostile bundles are rejected with a reason, and the server keeps serving."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as triton
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from swiftrec.server.__main__ import main
from swiftrec.server.app import App
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import MANIFEST, RANKER, Bundle, Manifest, file_hash, load_bundle
from swiftrec.server.models.external_data import external_files
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.probe import probe, try_bundle
from tests.server.support import bundles, small
from tests.server.support.apps import Clients, add_version, connect, running, serving
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


def test_500_mutated_files_are_refused_by_name_and_the_old_version_keeps_serving(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftrec.server.app.probe", lambda *_: None)
    rng = random.Random(7)
    add_version(bundle, tmp_path, 1)
    good = add_version(bundle, tmp_path, 2)
    names = sorted([*load_bundle(good).manifest.files, MANIFEST])
    contents = {name: (good / name).read_bytes() for name in names}
    with serving([tmp_path / "swapped" / "1"]) as app, Clients(app.port, 1) as clients:
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
        assert (clients.wrong, clients.versions) == ([], {1})
        assert clients.answers > _MUTATIONS / 2
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
        ("items.jsonl", b"not json", "not a table of items"),
        ("items.jsonl", b'{"id": "1"}', "not a table of items"),
        ("vectors.npy", b"no array", "not a file of vectors"),
        ("vectors.npy", vectors(np.zeros((3, 128), np.float32)), "for 1682 items"),
        ("vectors.npy", vectors(np.zeros((1682, 64), np.float32)), r"64 \+ 128 dimensions"),
        ("vectors.npy", vectors(np.full((1682, 128), np.nan, np.float32)), "not finite"),
        ("vectors.npy", vectors(np.array([{}], dtype=object)), "not a file of vectors"),
        ("sentences.npy", b"no array", "sentences.npy: not a file of vectors"),
        ("transitions-starts.npy", b"no array", "transitions-starts.npy: not an array"),
        ("neighbours-positions.npy", vectors(np.zeros(3, np.int32)), "neighbours-starts.npy: its rows do not fit"),
        ("words-terms.npy", vectors(np.array([{}], dtype=object)), "words-terms.npy: not an array"),
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


def test_probe_process_reports_why_it_refuses_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
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


def test_crashed_probe_process_is_reported_with_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_reason_is_one_sentence_for_every_end_of_the_probe_process(
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


def test_probe_process_is_stopped_at_its_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "exec cat")  # until its stdin ends
    with pytest.raises(BundleError, match=r"not warmed up .* after 0.2 s: export it again or raise --probe-timeout-s"):
        probe(tmp_path, EngineOptions(), timeout_s=0.2)


Damage = Callable[[Path], None]


_REFUSED = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}


_MAX_SENTENCE_BYTES = 1_100


_HUGE = 10**9


def filled(name: str, value: int) -> Damage:
    """A table that holds nothing but this number, as often as it has numbers."""

    def damage(folder: Path) -> None:
        table = np.load(folder / name)
        file = io.BytesIO()
        np.save(file, np.full_like(table, value))
        replaced(name, file.getvalue())(folder)

    return damage


def replaced(name: str, data: bytes) -> Damage:
    """A file with other bytes, under a seal that fits them."""

    def damage(folder: Path) -> None:
        bundles.replace(folder / name, data)
        bundles.seal(folder, 2)

    return damage


def manifest_bytes(data: bytes) -> Damage:
    """A manifest of these bytes."""
    return lambda folder: bundles.replace(folder / MANIFEST, data)


def manifest_facts(**facts: object) -> Damage:
    """A sealed manifest that says this."""

    def damage(folder: Path) -> None:
        given = json.loads((folder / MANIFEST).read_bytes()) | {"version": 2} | facts
        bundles.replace(folder / MANIFEST, Manifest(**given).sealed().model_dump_json().encode())

    return damage


def names_file(path: str) -> Damage:
    """A sealed manifest that names a file outside the folder, with its right hash."""

    def damage(folder: Path) -> None:
        outside = folder / path
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        manifest_facts(files=files | {path: file_hash(outside)})(folder)

    return damage


def special(name: str, make: Callable[[Path], object]) -> Damage:
    """Something that is no regular file, in the place of one."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def npy(header: str, data: bytes = b"") -> bytes:
    """An array file with a header by hand."""
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def item_lines(**facts: Any) -> bytes:  # noqa: ANN401 (of JSON)
    """A table of items in which one has these facts."""
    plain: dict[str, Any] = {"attributes": {}, "popularity": 1}
    rows = [plain | {"id": f"i{n}", "title": title, "text": title} for n, title in enumerate(small.titles())]
    rows[7] |= facts
    return "\n".join(json.dumps(row) for row in rows).encode()


_DEEP = b"[" * 200_000


_DAMAGES: dict[str, Damage] = {
    "manifest nested deeply": manifest_bytes(_DEEP),
    "manifest of an endless number": manifest_bytes(b'{"version": ' + b"9" * 100_000 + b"}"),
    "manifest not UTF-8": manifest_bytes(b"\xff\xfe{}"),
    "manifest null": manifest_bytes(b"null"),
    "manifest a pipe": special(MANIFEST, os.mkfifo),
    "manifest a folder": special(MANIFEST, os.mkdir),
    "manifest a link in a circle": special(MANIFEST, lambda path: path.symlink_to(path)),
    "vectors a pipe": special("vectors.npy", os.mkfifo),
    "vectors a device": special("vectors.npy", lambda path: path.symlink_to("/dev/zero")),
    "vectors a folder": special("vectors.npy", os.mkdir),
    "vectors of a trillion": replaced(
        "vectors.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 6), }")
    ),
    "vectors of a negative shape": replaced(
        "vectors.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 6), }")
    ),
    "vectors whose header is code": replaced("vectors.npy", npy("__import__('os').abort()")),
    "vectors as objects": replaced(
        "vectors.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (40, 6), }", b"cos\nabort\n(tR.")
    ),
    "file above": names_file("../../outside"),
    "dimensions negative": manifest_facts(dimensions=-1),
    "dimensions huge": manifest_facts(dimensions=_HUGE),
    "tokens two": manifest_facts(max_tokens=2),
    "tokens huge": manifest_facts(max_tokens=2**70),
    "tokens none": manifest_facts(max_tokens=0),
    "history none": manifest_facts(max_history=0),
    "variant outside": manifest_facts(variants={"tiny-fp32": "../../outside"}),
    "default unknown": manifest_facts(default={"cpu": "none"}),
    "name of another": manifest_facts(name="../small"),
    "weights not finite": manifest_facts(blend=[{"query": "none", "events": 0, "weights": {"a": "nan"}}]),
    "items nested deeply": replaced("items.jsonl", _DEEP),
    "items with attributes of attributes": replaced("items.jsonl", item_lines(attributes={"kind": [{"a": []}]})),
    "tokenizer nested deeply": replaced("tokenizer.json", _DEEP),
    "items with a text as popularity": replaced("items.jsonl", item_lines(popularity="many")),
    "words out of range": filled("words-postings-positions.npy", 10**6),
    "words before the first": filled("words-postings-positions.npy", -1),
    "neighbours out of range": filled("neighbours-positions.npy", 10**6),
    "starts that fall": filled("neighbours-starts.npy", 7),
}


_NAMES = [
    *(".", "..", "../1", "/etc/passwd", "file:///etc/passwd", "small/../small", "small/1", "..\\small", "~", "$(id)"),
    *(
        "small\0",
        "\0",
        "small\n",
        "\r\n",
        " small",
        "small ",
        "SMALL",
        "\u017fmall",
        "\u202esmall",
        "\U0001f600",
        "%s%n",
    ),
    *("{0}", "-rf", "'; DROP TABLE", "1", "manifest.json", ".encoder", "encoder.", "small..encoder", "x" * 256),
    *("small.encoder.encoder", "x" * 100_000),
]


_STRANGE: dict[str, Damage] = {  # which do no harm
    "items with one id twice": replaced("items.jsonl", item_lines(id="i8")),
    "items with a number as id": replaced("items.jsonl", item_lines(id=8)),
    "items with endless popularity": replaced("items.jsonl", item_lines(popularity=1e999)),
    "items with an id of a megabyte": replaced("items.jsonl", item_lines(id="x" * 1_000_000)),
    "items with a title of lone surrogates": replaced("items.jsonl", item_lines(title="\ud800")),
    "history huge": manifest_facts(max_history=_HUGE),
    "tokens one": manifest_facts(max_tokens=1),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without damage, as version 2."""
    folder = small.write_bundle(tmp_path_factory.mktemp("good") / "2")
    bundles.seal(folder, 2)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of bundles."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[App]:
    """A server of version 1, which loads other versions without trying them in a process first."""
    (home / "outside").write_bytes(b"x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swiftrec.server.app.probe", lambda *_: None)
        with running(home / "small", repository=home) as app:
            yield app


@pytest.fixture
def second(home: Path, good: Path) -> Iterator[Path]:
    """The folder of version 2 beside that of version 1."""
    folder = shutil.copytree(good, home / "small" / "2")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def hostile_channel(server: App) -> Iterator[grpc.Channel]:
    """A channel to it; at the end version 1 answers."""
    with connect(server) as connection:
        yield connection
        assert answer(connection, 1).version == 1
    assert server.fault == ""


def answer(hostile_channel: grpc.Channel, version: int) -> pb.RecommendResponse:
    request = pb.RecommendRequest(history=[pb.Event(item_id="i3")], query="film", top_k=40, version=version)
    return RecommenderServiceStub(hostile_channel).Recommend(request, timeout=LONG)


def load(hostile_channel: grpc.Channel, version: int) -> None:
    """Load a version beside the others; 0: version 1 alone."""
    parameters = {"version": triton.ModelRepositoryParameter(int64_param=version)} if version else {}
    request = triton.RepositoryModelLoadRequest(model_name="small", parameters=parameters)
    GRPCInferenceServiceStub(hostile_channel).RepositoryModelLoad(request, timeout=LONG)


def refusal(call: Callable[[], object]) -> grpc.StatusCode:
    """The code of a call that is refused, in a sentence that fits the trailers of a call."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert isinstance(caught.value, grpc.Call)
    assert 0 < len((caught.value.details() or "").encode()) < _MAX_SENTENCE_BYTES
    return caught.value.code()


@pytest.mark.parametrize("name", _DAMAGES)
def test_hostile_bundle_is_refused_and_the_other_version_keeps_serving(
    hostile_channel: grpc.Channel, second: Path, name: str
) -> None:
    _DAMAGES[name](second)
    assert refusal(lambda: load(hostile_channel, 2)) is grpc.StatusCode.FAILED_PRECONDITION
    assert refusal(lambda: answer(hostile_channel, 2)) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", _STRANGE)
def test_unusual_bundle_affects_only_its_calls(hostile_channel: grpc.Channel, second: Path, name: str) -> None:
    _STRANGE[name](second)
    load(hostile_channel, 2)
    with contextlib.suppress(grpc.RpcError):
        assert answer(hostile_channel, 2).version == 2
    assert answer(hostile_channel, 1).version == 1
    load(hostile_channel, 0)


def test_bundle_without_damage_is_loaded(hostile_channel: grpc.Channel, second: Path) -> None:
    """Negative control."""
    assert second.is_dir()
    load(hostile_channel, 2)
    assert answer(hostile_channel, 2).version == 2
    load(hostile_channel, 0)


@pytest.mark.parametrize("name", _NAMES)
def test_hostile_name_is_refused_and_changes_nothing(hostile_channel: grpc.Channel, server: App, name: str) -> None:
    before, models = server.registry.index(), GRPCInferenceServiceStub(hostile_channel)
    calls: list[Callable[[], object]] = [
        lambda: models.RepositoryModelLoad(triton.RepositoryModelLoadRequest(model_name=name), timeout=LONG),
        lambda: models.RepositoryModelUnload(triton.RepositoryModelUnloadRequest(model_name=name), timeout=LONG),
        lambda: models.ModelInfer(triton.ModelInferRequest(model_name=name), timeout=LONG),
        lambda: models.ModelMetadata(triton.ModelMetadataRequest(name=name), timeout=LONG),
        lambda: models.ModelStatistics(triton.ModelStatisticsRequest(name=name), timeout=LONG),
        lambda: RecommenderServiceStub(hostile_channel).Recommend(pb.RecommendRequest(bundle=name), timeout=LONG),
    ]
    assert {refusal(call) for call in calls} <= _REFUSED
    assert not models.ModelReady(triton.ModelReadyRequest(name=name), timeout=LONG).ready
    assert server.registry.index() == before


@pytest.mark.parametrize("version", ["-1", "0", "1.0", "1e3", "../1", "9" * 30, "\u0661", "1\0", " 1"])
def test_hostile_version_is_refused(hostile_channel: grpc.Channel, version: str) -> None:
    models, parameters = (
        GRPCInferenceServiceStub(hostile_channel),
        {"version": triton.ModelRepositoryParameter(string_param=version)},
    )
    request = triton.RepositoryModelLoadRequest(model_name="small", parameters=parameters)
    infer = triton.ModelInferRequest(model_name="small", model_version=version)
    assert refusal(lambda: models.RepositoryModelLoad(request, timeout=LONG)) in _REFUSED
    assert refusal(lambda: models.ModelInfer(infer, timeout=LONG)) in _REFUSED
