"""The manifest of a bundle: what older exports wrote is still read, and a change is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import FORMAT, MANIFEST, SENTENCES, Manifest, file_hash, load_bundle
from swiftrec.server.parts import TABLES
from tests.export import tables


def write(folder: Path, *, exclude_history: bool, sentence_dimensions: int = 0) -> dict[str, Any]:
    """A bundle of empty files with a sealed manifest; the manifest's fields."""
    names = ["tokenizer.json", "ranker.onnx", "items.jsonl", "vectors.npy", *TABLES]
    if sentence_dimensions:
        names.append(SENTENCES)
    for name in names:
        (folder / name).touch()
    manifest = Manifest(
        format=FORMAT,
        name="tiny",
        version=1,
        created="today",
        export_key="",
        dimensions=4,
        max_tokens=8,
        max_history=8,
        variants={},
        default={},
        quality={"tasks": {}},
        sources={},
        tools={},
        machine="",
        files={name: file_hash(folder / name) for name in names},
        exclude_history=exclude_history,
        sentence_dimensions=sentence_dimensions,
    )
    fields: dict[str, Any] = json.loads(manifest.sealed().model_dump_json())
    (folder / MANIFEST).write_text(json.dumps(fields))
    return fields


@pytest.mark.parametrize("choice", [True, False])
def test_default_for_the_history_is_read_as_it_was_written(tmp_path: Path, choice: bool) -> None:
    fields = write(tmp_path, exclude_history=choice)
    assert load_bundle(tmp_path).manifest.exclude_history is choice
    (tmp_path / MANIFEST).write_text(json.dumps(fields | {"exclude_history": not choice}))
    with pytest.raises(BundleError, match="changed since it was written"):
        load_bundle(tmp_path)


def test_tables_are_those_that_memory_and_words_write(tmp_path: Path) -> None:
    assert tables.write_tables(tmp_path, ["one", "two"]) == sorted(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_bundle_without_a_table_is_refused_by_name(tmp_path: Path, name: str) -> None:
    fields = write(tmp_path, exclude_history=True)
    del fields["files"][name]
    (tmp_path / MANIFEST).write_text(Manifest(**fields).sealed().model_dump_json())
    with pytest.raises(BundleError, match=f"names no hash of {name}: export it again"):
        load_bundle(tmp_path)


def test_bundle_of_an_older_format_is_to_be_exported_again(tmp_path: Path) -> None:
    """Its encoders give vectors of another length than this server reads."""
    fields = write(tmp_path, exclude_history=True)
    (tmp_path / MANIFEST).write_text(json.dumps(fields | {"format": FORMAT - 1}))
    with pytest.raises(BundleError, match=f"format {FORMAT - 1}, this server reads {FORMAT}: export it again"):
        load_bundle(tmp_path)


def test_manifest_without_a_field_is_read_with_its_default(tmp_path: Path) -> None:
    """Its digest is of the fields that it has."""
    fields = write(tmp_path, exclude_history=False)
    for name in ("exclude_history", "sentence_dimensions"):
        del fields[name]
    body = json.dumps({name: value for name, value in fields.items() if name != "digest"}, sort_keys=True)
    fields["digest"] = hashlib.sha256(body.encode()).hexdigest()
    (tmp_path / MANIFEST).write_text(json.dumps(fields))
    found = load_bundle(tmp_path).manifest
    assert found.exclude_history
    assert (found.sentence_dimensions, found.encoder_dimensions) == (0, found.dimensions)
    (tmp_path / MANIFEST).write_text(json.dumps(fields | {"exclude_history": False}))
    with pytest.raises(BundleError, match="changed since it was written"):
        load_bundle(tmp_path)


def test_manifest_says_how_long_both_halves_are(tmp_path: Path) -> None:
    write(tmp_path, exclude_history=True, sentence_dimensions=3)
    found = load_bundle(tmp_path).manifest
    assert (found.dimensions, found.sentence_dimensions, found.encoder_dimensions) == (4, 3, 7)


def test_bundle_with_a_sentence_half_and_no_sentences_of_its_items_is_refused(tmp_path: Path) -> None:
    fields = write(tmp_path, exclude_history=True, sentence_dimensions=3)
    del fields["files"][SENTENCES]
    (tmp_path / MANIFEST).write_text(Manifest(**fields).sealed().model_dump_json())
    with pytest.raises(BundleError, match=f"names no hash of {SENTENCES}: export it again"):
        load_bundle(tmp_path)
