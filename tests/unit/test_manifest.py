"""The manifest of a bundle: what older exports wrote is still read, and a change is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.errors import BundleError
from server.models.bundle import FORMAT, MANIFEST, Manifest, file_hash, load_bundle


def write(folder: Path, *, exclude_history: bool) -> dict[str, Any]:
    """A bundle of empty files with a sealed manifest; the manifest's fields."""
    names = ("tokenizer.json", "ranker.onnx", "items.jsonl", "vectors.npy")
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


def test_bundle_of_an_older_export_leaves_out_the_history(tmp_path: Path) -> None:
    """Its manifest has no such field, and its digest is of the fields that it has: this one was written by one."""
    fields = write(tmp_path, exclude_history=False)
    del fields["exclude_history"]
    fields["files"] = dict.fromkeys(fields["files"], file_hash(tmp_path / "vectors.npy"))
    fields["digest"] = "8b569e697dec4f594fccbaf2c149269742271eea55bb0f866fd90b373e90063d"
    (tmp_path / MANIFEST).write_text(json.dumps(fields))
    assert load_bundle(tmp_path).manifest.exclude_history
    (tmp_path / MANIFEST).write_text(json.dumps(fields | {"exclude_history": False}))
    with pytest.raises(BundleError, match="changed since it was written"):
        load_bundle(tmp_path)
