"""The files of a bundle: the manifest, external data, and models that fail on warm-up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from swiftrec.server.catalogue.blend import QUERIES, Weights
from swiftrec.server.catalogue.history import NEVER
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import (
    FORMAT,
    MANIFEST,
    RANKER,
    SENTENCES,
    Manifest,
    file_hash,
    load_bundle,
    upgrade,
)
from swiftrec.server.models.external_data import MESSAGES, external_files
from swiftrec.server.models.session import Session, open_session
from swiftrec.server.parts import TABLES
from tests.export import tables
from tests.server.support import bundles, small


def write(folder: Path, *, exclude_history: bool, sentence_dimensions: int = 0) -> dict[str, Any]:
    """A bundle of empty files with a sealed manifest; the manifest's fields."""
    names = ["tokenizer.json", "ranker.onnx", "items.jsonl", "vectors.npy", *TABLES]
    if sentence_dimensions:
        names.append(SENTENCES)
    for name in names:
        (folder / name).touch()
    manifest = bundles.tiny_manifest(
        quality={"tasks": {}},
        files={name: file_hash(folder / name) for name in names},
        exclude_history=exclude_history,
        sentence_dimensions=sentence_dimensions,
    )
    fields: dict[str, Any] = json.loads(manifest.sealed().model_dump_json())
    (folder / MANIFEST).write_text(json.dumps(fields))
    return fields


@pytest.mark.parametrize("choice", [True, False])
def test_exclude_history_round_trips_and_is_sealed(tmp_path: Path, choice: bool) -> None:
    fields = write(tmp_path, exclude_history=choice)
    assert load_bundle(tmp_path).manifest.exclude_history is choice
    (tmp_path / MANIFEST).write_text(json.dumps(fields | {"exclude_history": not choice}))
    with pytest.raises(BundleError, match="was changed after it was written"):
        load_bundle(tmp_path)


def test_tables_are_those_that_memory_and_words_write(tmp_path: Path) -> None:
    assert tables.write_tables(tmp_path, ["one", "two"]) == sorted(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_bundle_without_a_table_is_refused_by_name(tmp_path: Path, name: str) -> None:
    fields = write(tmp_path, exclude_history=True)
    del fields["files"][name]
    (tmp_path / MANIFEST).write_text(Manifest(**fields).sealed().model_dump_json())
    with pytest.raises(BundleError, match=f"has no hash of {name}: export it again"):
        load_bundle(tmp_path)


def test_bundle_with_weights_and_without_all_tables_is_refused(tmp_path: Path) -> None:
    fields = write(tmp_path, exclude_history=True)
    files = {name: sha for name, sha in fields["files"].items() if name not in TABLES}
    blend = [{"query": query, "events": 0, "weights": asdict(Weights())} for query in QUERIES]
    changed = Manifest(**fields | {"files": files, "blend": blend})
    (tmp_path / MANIFEST).write_text(changed.sealed().model_dump_json())
    with pytest.raises(BundleError, match=f"has no hash of {TABLES[0]}: export it again"):
        load_bundle(tmp_path)


@pytest.fixture
def format_1(tmp_path: Path) -> Path:
    """A bundle of format 1 of empty files."""
    fields = write(tmp_path, exclude_history=True)
    for name in TABLES:
        (tmp_path / name).unlink()
    bundles.write_format_1(tmp_path, Manifest(**fields))
    return tmp_path


def test_bundle_of_format_1_scores_by_the_ranker_alone(format_1: Path) -> None:
    actual = load_bundle(format_1).manifest
    assert (actual.format, actual.blend, actual.has_tables, actual.sentence_dimensions) == (FORMAT, [], False, 0)
    assert (actual.same_item, actual.exclude_history, actual.encoder_dimensions) == (NEVER, True, actual.dimensions)


def test_manifest_read_in_format_1_is_written_in_the_current_format(format_1: Path) -> None:
    before = load_bundle(format_1).manifest
    (format_1 / MANIFEST).write_text(before.sealed().model_dump_json())
    assert load_bundle(format_1).manifest.model_dump(exclude={"digest"}) == before.model_dump(exclude={"digest"})


def test_upgrade_changes_no_other_field_and_no_other_format(format_1: Path) -> None:
    fields = json.loads((format_1 / MANIFEST).read_bytes())
    before = dict(fields)
    added = {"format", "sentence_dimensions", "blend", "same_item"}
    assert {name: value for name, value in upgrade(fields).items() if name not in added} == {
        name: value for name, value in before.items() if name not in added
    }
    assert fields == before
    assert all(upgrade({"format": other}) == {"format": other} for other in (0, FORMAT, 3))


def test_files_of_a_bundle_of_format_1_are_checked(format_1: Path) -> None:
    (format_1 / RANKER).write_bytes(b"changed")
    with pytest.raises(BundleError, match=rf"{RANKER}: truncated or changed \(.*\): export it again$"):
        load_bundle(format_1)


def test_changed_manifest_of_format_1_is_refused(format_1: Path) -> None:
    fields = json.loads((format_1 / MANIFEST).read_bytes())
    (format_1 / MANIFEST).write_text(json.dumps(fields | {"max_history": 9}))
    with pytest.raises(BundleError, match="was changed after it was written"):
        load_bundle(format_1)


@pytest.mark.parametrize("written", [0, 3, "1", None, "x" * 1_000])
def test_unknown_format_is_refused_with_the_supported_ones(format_1: Path, written: object) -> None:
    bundles.write_format_1(format_1, load_bundle(format_1).manifest, format=written, added_later={})
    with pytest.raises(BundleError) as caught:
        load_bundle(format_1)
    shown = repr(written)[:200]
    assert str(caught.value) == (
        f"{format_1 / MANIFEST}: has format {shown}, this server reads formats 1 and 2: export it again"
    )


@pytest.mark.parametrize("name", ["format", "tools", "files", "dimensions"])
def test_manifest_of_format_1_without_a_field_is_refused_by_name(format_1: Path, name: str) -> None:
    fields = json.loads((format_1 / MANIFEST).read_bytes())
    del fields[name]
    (format_1 / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(BundleError) as caught:
        load_bundle(format_1)
    assert str(caught.value) == (f"{format_1 / MANIFEST}: field '{name}' is invalid (Field required): export it again")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff"])
def test_file_other_than_a_manifest_is_refused_in_one_sentence(format_1: Path, data: bytes) -> None:
    (format_1 / MANIFEST).write_bytes(data)
    with pytest.raises(BundleError, match=rf"^{format_1 / MANIFEST}: is no manifest \([^\n]+\): export it again$"):
        load_bundle(format_1)


def test_manifest_without_a_field_is_read_with_its_default(tmp_path: Path) -> None:
    """Its digest is of the fields that it has."""
    fields = write(tmp_path, exclude_history=False)
    for name in ("exclude_history", "sentence_dimensions"):
        del fields[name]
    body = json.dumps({name: value for name, value in fields.items() if name != "digest"}, sort_keys=True)
    fields["digest"] = hashlib.sha256(body.encode()).hexdigest()
    (tmp_path / MANIFEST).write_text(json.dumps(fields))
    actual = load_bundle(tmp_path).manifest
    assert actual.exclude_history
    assert (actual.sentence_dimensions, actual.encoder_dimensions) == (0, actual.dimensions)
    (tmp_path / MANIFEST).write_text(json.dumps(fields | {"exclude_history": False}))
    with pytest.raises(BundleError, match="was changed after it was written"):
        load_bundle(tmp_path)


def test_manifest_has_the_length_of_both_halves(tmp_path: Path) -> None:
    write(tmp_path, exclude_history=True, sentence_dimensions=3)
    actual = load_bundle(tmp_path).manifest
    assert (actual.dimensions, actual.sentence_dimensions, actual.encoder_dimensions) == (4, 3, 7)


def test_bundle_with_a_sentence_half_is_refused_without_sentence_vectors(tmp_path: Path) -> None:
    fields = write(tmp_path, exclude_history=True, sentence_dimensions=3)
    del fields["files"][SENTENCES]
    (tmp_path / MANIFEST).write_text(Manifest(**fields).sealed().model_dump_json())
    with pytest.raises(BundleError, match=f"has no hash of {SENTENCES}: export it again"):
        load_bundle(tmp_path)


_WEIGHTS = "ranker.onnx.data"


def tensor(location: str | None, name: str = "w") -> TensorProto:
    """Four numbers, inside the model or at `location`."""
    tensor = numpy_helper.from_array(np.arange(4, dtype=np.float32), name)
    if location is not None:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="offset", value="0")
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="length", value="16")
    return tensor


def model(*initializers: TensorProto) -> ModelProto:
    """Add the first initializer to an input of four numbers."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    node = helper.make_node("Add", ["x", initializers[0].name], ["y"])
    graph = helper.make_graph([node], "graph", values[:1], values[1:], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def bundle(folder: Path, ranker: bytes, *more: str) -> Path:
    """A bundle with this ranker; its manifest has hashes of `more` files, too."""
    folder.mkdir(exist_ok=True)
    fields: dict[str, Any] = write(folder, exclude_history=True)
    (folder / RANKER).write_bytes(ranker)
    fields["files"] |= {name: file_hash(folder / name) for name in (RANKER, *more)}
    (folder / MANIFEST).write_text(Manifest(**fields).sealed().model_dump_json())
    return folder


def write_weights(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.full(4, 7, dtype=np.float32).tobytes())


def test_weights_without_a_hash_are_refused_by_name(tmp_path: Path) -> None:
    write_weights(tmp_path / "1" / _WEIGHTS)
    folder = bundle(tmp_path / "1", model(tensor(_WEIGHTS)).SerializeToString())
    feeds: dict[str, NDArray[np.generic]] = {"x": np.zeros(4, dtype=np.float32)}
    assert open_session(folder / RANKER).run(feeds).tolist() == [7.0] * 4  # ONNX Runtime would load them
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    assert str(caught.value) == (
        f"{folder / RANKER}: reads weights from {_WEIGHTS!r}, of which {MANIFEST} has no hash: export it again"
    )


@pytest.mark.parametrize("location", [_WEIGHTS, f"./{_WEIGHTS}", "deep/weights"])
def test_weights_with_a_hash_are_loaded_and_a_change_is_refused(tmp_path: Path, location: str) -> None:
    name = location.removeprefix("./")
    write_weights(tmp_path / "1" / name)
    folder = bundle(tmp_path / "1", model(tensor(location)).SerializeToString(), name)
    assert load_bundle(folder).folder == folder
    (folder / name).write_bytes(bytes(16))
    with pytest.raises(BundleError, match=f"{name}: truncated or changed"):
        load_bundle(folder)


@pytest.mark.parametrize("location", ["../weights", "deep/../../weights", "/etc/hostname", "*/_ORT_MEM_ADDR_/*", ""])
def test_weights_outside_the_bundle_are_refused(tmp_path: Path, location: str) -> None:
    write_weights(tmp_path / "weights")
    folder = bundle(tmp_path / "1", model(tensor(location)).SerializeToString())
    with pytest.raises(BundleError, match=f"{RANKER}: reads weights from .*: export it again"):
        load_bundle(folder)


def test_link_that_leaves_the_bundle_is_refused(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / _WEIGHTS).symlink_to(tmp_path / "weights")
    folder = bundle(tmp_path / "1", model(tensor(_WEIGHTS)).SerializeToString(), _WEIGHTS)
    with pytest.raises(BundleError, match=f"{_WEIGHTS}: is outside the bundle"):
        load_bundle(folder)


def test_encoders_are_checked_too(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "1", b"")
    (folder / "encoder.onnx").write_bytes(model(tensor("beside")).SerializeToString())
    fields = load_bundle(folder).manifest.model_dump()
    fields["files"]["encoder.onnx"] = file_hash(folder / "encoder.onnx")
    fields["variants"] = {"static-fp32": "encoder.onnx"}
    (folder / MANIFEST).write_text(Manifest(**fields).sealed().model_dump_json())
    with pytest.raises(BundleError, match=r"encoder.onnx: reads weights from 'beside'"):
        load_bundle(folder)


def _places() -> Iterator[ModelProto]:
    """Models with a tensor in each place that ONNX has for one, all with external data at "away"."""
    away, inside = tensor("away"), tensor(None)
    sparse = onnx.SparseTensorProto(values=inside, indices=away)
    branch = helper.make_graph([], "branch", [], [], [away])
    attributes = [
        helper.make_attribute("t", away),
        helper.make_attribute("tensors", [inside, away]),
        helper.make_attribute("g", branch),
        helper.make_attribute("graphs", [branch]),
        helper.make_attribute("sparse_tensor", sparse),
        helper.make_attribute("sparse_tensors", [sparse]),
    ]
    for attribute in attributes:
        node = onnx.NodeProto(op_type="Constant", attribute=[attribute])
        yield ModelProto(graph=onnx.GraphProto(node=[onnx.NodeProto(op_type="Add"), node]))
        yield ModelProto(functions=[onnx.FunctionProto(node=[node])])
        yield ModelProto(functions=[onnx.FunctionProto(attribute_proto=[attribute])])
    yield ModelProto(graph=onnx.GraphProto(sparse_initializer=[sparse]))
    yield ModelProto(training_info=[onnx.TrainingInfoProto(initialization=branch)])
    yield ModelProto(training_info=[onnx.TrainingInfoProto(algorithm=branch)])


@pytest.mark.parametrize("made", [*_places()])
def test_external_weights_are_found_in_every_tensor_field(tmp_path: Path, made: ModelProto) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    assert external_files(path) == {"away"}


def test_message_table_equals_the_one_of_onnx() -> None:
    """Every field of a message that can hold a tensor, at any depth, by the descriptors of the onnx package."""
    fields: dict[str, dict[int, str]] = {}
    left = [onnx.ModelProto.DESCRIPTOR]
    while left:
        message = left.pop()
        if message.name not in fields:
            inner = {field.number: field.message_type for field in message.fields if field.message_type is not None}
            fields[message.name] = {number: message_type.name for number, message_type in inner.items()}
            left += inner.values()
    holds = {"TensorProto"}
    while more := {name for name, kind in fields.items() if holds & {*kind.values()}} - holds:
        holds |= more
    table = {name: {n: kind for n, kind in fields[name].items() if kind in holds} for name in holds}
    table["TensorProto"] = {TensorProto.EXTERNAL_DATA_FIELD_NUMBER: "StringStringEntryProto"}
    assert table == MESSAGES


def test_embedded_weights_are_not_external_data(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model(tensor(None), tensor(None, "other")).SerializeToString())
    assert external_files(path) == set()


@pytest.mark.parametrize(
    "data",
    [
        b"\x3a\x7f",  # a graph longer than the file
        b"\x3b\x3c",  # a group
        b"\x3a",  # a graph without a length
        b"\xff" * 11,
        b"\x09\x00",  # eight bytes that are not there
        b"no ONNX model at all",
        ModelProto(graph=onnx.GraphProto(node=[onnx.NodeProto(op_type="EPContext")])).SerializeToString(),
    ],
)
def test_file_that_cannot_be_read_as_a_model_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BundleError, match=r"ranker.onnx: not an ONNX model that this server can read"):
        load_bundle(bundle(tmp_path / "1", data))


class Broken:
    """A model whose last answer of each batch has `value` in the place of a number; without one, a number too few."""

    def __init__(self, model: Session, value: float | None) -> None:
        self._model, self._value = model, value

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Vectors, of which one is broken."""
        vectors = self._model.run(feeds)
        if self._value is None:
            return vectors[:, 1:]
        vectors[-1, 2] = self._value
        return vectors


@pytest.mark.parametrize("is_ranker", [True, False])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.nan, "NaN or infinity"),
        (np.inf, "NaN or infinity"),
        (-np.inf, "NaN or infinity"),
        (None, r"\[1, .\] for 1 rows of .* dimensions"),
    ],
)
def test_model_that_returns_nan_is_refused_by_name_at_warm_up(
    tmp_path: Path, value: float | None, said: str, is_ranker: bool
) -> None:
    folder = small.write_bundle(tmp_path / "1")

    def open_session(path: Path, device: str, threads: int) -> Session:
        model = small.open_tiny(path, device, threads)
        return Broken(model, value) if (path.name == RANKER) is is_ranker else model

    engine = small.engine(folder, open_session=open_session)
    name = RANKER if is_ranker else engine.bundle.encoder("cpu", None).name
    with pytest.raises(BundleError, match=rf"^{folder / name}: the model returns {said}: export it again$"):
        engine.start()


def test_sound_models_warm_up(tmp_path: Path) -> None:
    small.engine(small.write_bundle(tmp_path / "1")).start()


class Interrupted:
    """A model that loses the CPU in every second run."""

    def __init__(self, model: Session, clock: list[float]) -> None:
        self._model, self._clock, self._runs = model, clock, 0

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Vectors, a millisecond or ten seconds later."""
        self._runs += 1
        self._clock[0] += 10.0 if self._runs % 2 else 1e-3
        return self._model.run(feeds)


def test_run_interrupted_by_other_processes_does_not_change_the_cost_model(tmp_path: Path) -> None:
    """Otherwise a version that was loaded on a busy machine would refuse its first calls."""
    folder, clock = small.write_bundle(tmp_path / "1"), [0.0]

    def open_session(path: Path, device: str, threads: int) -> Session:
        return Interrupted(small.open_tiny(path, device, threads), clock)

    engine = small.engine(folder, open_session=open_session)
    engine._clock = lambda: clock[0]
    engine.start()
    for cost in (engine.stages.encoder.cost, engine.stages.ranker.cost):
        assert cost(1, 4) < 0.01
