"""Bundles for tests, made from the quick one: other versions, damaged files, seals renewed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from swiftrec.server.catalogue.catalogue import ITEMS, VECTORS
from swiftrec.server.models.bundle import FORMAT, MANIFEST, RANKER, Bundle, Manifest, file_hash

_ADDED_BY_FORMAT_2 = ("exclude_history", "sentence_dimensions", "blend", "same_item")


def tiny_manifest(**changes: object) -> Manifest:
    """A manifest of a bundle without encoders and files, with these fields changed."""
    texts = {"name": "tiny", "created": "", "export_key": "", "machine": ""}
    numbers = {"format": FORMAT, "version": 1, "dimensions": 4, "max_tokens": 8, "max_history": 8}
    maps: dict[str, object] = {key: {} for key in ("variants", "default", "quality", "sources", "tools", "files")}
    return Manifest.model_validate(texts | numbers | maps | changes)


def write_manifest(folder: Path, name: str = "mine", version: int = 1, max_tokens: int = 1) -> Path:
    """A folder with nothing but a manifest."""
    folder.mkdir()
    manifest = tiny_manifest(name=name, version=version, max_tokens=max_tokens, format=1)
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def copy(bundle: Bundle, folder: Path, *, light: bool = False) -> Path:
    """A copy in `folder`, of hard links where possible; with `light`, a few bytes replace each model."""
    folder.mkdir(parents=True)
    for name in (*bundle.manifest.files, MANIFEST):
        source = bundle.folder / name
        if light and source.suffix == ".onnx":
            (folder / name).write_bytes(stand_in(name))
        else:
            try:
                os.link(source, folder / name)
            except OSError:
                shutil.copy(source, folder / name)
    return folder


def copy_as_format_1(bundle: Bundle, folder: Path, version: int = 1) -> Path:
    """The bundle as format 1 had it: the default encoder, without its sentence half, and neither memory nor words."""
    folder.mkdir(parents=True)
    for file in ("tokenizer.json", RANKER, ITEMS, VECTORS):
        shutil.copy(bundle.folder / file, folder / file)
    variant = bundle.variant("cpu", None)
    encoder = bundle.encoder("cpu", None).name
    triton = bundle.folder.parent / f"triton-{bundle.folder.name}"  # its encoders have no sentence half
    shutil.copy(triton / f"encoder_{variant}" / "1" / "model.onnx", folder / encoder)
    write_format_1(
        folder, bundle.manifest, version=version, variants={variant: encoder}, default={"cpu": variant}, quality={}
    )
    return folder


def write_format_1(folder: Path, manifest: Manifest, **changes: object) -> dict[str, Any]:
    """Write a manifest in format 1 for the files in `folder`, with these changes; returns its fields."""
    older_fields = manifest.model_dump(exclude={*_ADDED_BY_FORMAT_2, "digest"})
    files = {path.name: file_hash(path) for path in folder.iterdir() if path.name != MANIFEST}
    fields: dict[str, Any] = older_fields | {"format": 1, "files": files} | changes
    fields["digest"] = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    replace(folder / MANIFEST, json.dumps(fields).encode())
    return fields


def stand_in(name: str) -> bytes:
    """A model with only the name of its producer (field 2 of ModelProto in ONNX)."""
    return b"\x12" + bytes([len(name)]) + name.encode()


def replace(path: Path, data: bytes) -> None:
    """Write a file without changing its other hard links."""
    scratch = path.with_name(f"{path.name}.new")
    scratch.write_bytes(data)
    scratch.replace(path)


def seal(folder: Path, version: int, name: str | None = None) -> None:
    """Update the manifest to the files."""
    facts = json.loads((folder / MANIFEST).read_bytes())
    facts |= {"version": version, "name": name or facts["name"]}
    facts["files"] = {file: file_hash(folder / file) for file in facts["files"]}
    replace(folder / MANIFEST, Manifest(**facts).sealed().model_dump_json().encode())


def rename_items(folder: Path, names: dict[str, str]) -> None:
    """Give items other ids."""
    rows = [json.loads(line) for line in (folder / ITEMS).read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps(row | {"id": names.get(row["id"], row["id"])}) for row in rows]
    replace(folder / ITEMS, "\n".join(lines).encode())


def mark_titles(folder: Path, mark: str) -> None:
    """Append `mark` to every title."""
    rows = [json.loads(line) for line in (folder / ITEMS).read_bytes().splitlines()]
    lines = [json.dumps(row | {"title": f"{row['title']} {mark}"}) for row in rows]
    replace(folder / ITEMS, "\n".join(lines).encode())
