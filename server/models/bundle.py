"""The bundle: one verified, versioned directory. Loading checks every hash and refuses by name."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from swiftrec.server.errors import BundleError
from swiftrec.server.models.external_data import external_files
from swiftrec.server.parts import TABLES

MANIFEST = "manifest.json"
FORMAT = 2
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
RANKER, SENTENCES = "ranker.onnx", "sentences.npy"
_SHOWN_CHARS = 200  # of a path that a model names
_NEEDED = ("tokenizer.json", RANKER, "items.jsonl", "vectors.npy", *TABLES)


class Manifest(BaseModel):
    """`manifest.json`. `digest` is the SHA-256 of the manifest itself without that field.

    `dimensions` is the length of the ranker's vectors and of the encoders' ranker half, `sentence_dimensions` that of
    the encoders' sentence half behind it (0: they have none). `exclude_history` is the default for requests that do not
    set it. `blend` holds the weights of the parts of a score (`server.catalogue.blend`), `same_item` the cosine from
    which on a text is an item.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    name: str
    version: int
    created: str
    export_key: str
    dimensions: int
    max_tokens: int
    max_history: int
    variants: dict[str, str]
    default: dict[str, str]
    quality: dict[str, Any]
    sources: dict[str, dict[str, str]]
    tools: dict[str, str]
    machine: str
    files: dict[str, str]
    exclude_history: bool = True
    sentence_dimensions: int = 0
    blend: list[dict[str, Any]] = []
    same_item: float = 2.0
    digest: str = ""

    @property
    def encoder_dimensions(self) -> int:
        """Length of the encoders' vectors, both halves."""
        return self.dimensions + self.sentence_dimensions

    def sealed(self) -> Manifest:
        """The same manifest with its digest filled in."""
        return self.model_copy(update={"digest": _digest(self.model_dump())})


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose every file has the hash that its manifest names."""

    folder: Path
    manifest: Manifest

    def variant(self, device: str, wanted: str | None) -> str:
        """Full name of an encoder, e.g. "bert3-int8".

        Args:
            device: "cpu", "cuda" or "tensorrt".
            wanted: a full name; a precision alone, "int8", means the student of the device's default; the device's
                default if not given.

        Raises:
            BundleError: the bundle has no such variant.
        """
        ours = self.manifest.default
        default = ours.get(device) or (ours.get("cuda") if device == "tensorrt" else None) or ours.get("cpu", "")
        names = [default] if wanted is None else [wanted, f"{default.rpartition('-')[0]}-{wanted}"]
        for name in names:
            if name in self.manifest.variants:
                return name
        have = ", ".join(self.manifest.variants)
        raise BundleError(f"{self.folder}: no encoder variant {names[0]!r}; it has {have}")

    def encoder(self, device: str, variant: str | None) -> Path:
        """Path of the encoder graph; see `variant`, which also says what is raised."""
        return self.folder / self.manifest.variants[self.variant(device, variant)]


def find_bundle(path: Path) -> Path:
    """The bundle at `path`, or the highest version below it.

    Raises:
        BundleError: there is none.
    """
    if (path / MANIFEST).exists():
        return path
    found = versions(path)
    if not found:
        raise BundleError(
            f"{path}: no {MANIFEST} and no version folder there: run swiftrec export, or give another --bundle"
        )
    return path / str(max(found))


def versions(folder: Path) -> list[int]:
    """The versions that lie in `folder`, unsorted: its folders that are named by a number from 1 to 18 digits long."""
    return [int(path.name) for path in folders_in(folder) if _VERSION.fullmatch(path.name)]


def folders_in(folder: Path) -> list[Path]:
    """The folders in `folder`; none if it does not exist or cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry) for entry in entries if entry.is_dir()]
    except OSError:
        return []


def load_bundle(path: Path) -> Bundle:
    """Read and verify.

    Raises:
        BundleError: names the file and what is wrong with it.
    """
    folder = find_bundle(path)
    manifest = _manifest(folder / MANIFEST)
    sentences = (SENTENCES,) if manifest.sentence_dimensions else ()
    for name in (*_NEEDED, *sentences, *manifest.variants.values()):
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST}: names no hash of {name}: export it again")
    for name, wanted in manifest.files.items():
        _check(folder, name, wanted)
    for name in {RANKER, *manifest.variants.values()}:
        _check_external(folder, name, manifest)
    return Bundle(folder, manifest)


def check_version(bundle: Bundle) -> None:
    """A version that was found by its number is that one.

    Raises:
        BundleError: the folder holds another.
    """
    if bundle.folder.name != str(bundle.manifest.version):
        raise BundleError(f"{bundle.folder}: holds version {bundle.manifest.version}: name the folder so")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(path: Path) -> Manifest:
    _check_regular(path)
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(f"{path}: {'.'.join(map(str, first['loc']))} {first['msg']}") from None
    if manifest.format != FORMAT:
        raise BundleError(f"{path}: format {manifest.format}, this server reads {FORMAT}: export it again")
    if manifest.digest != _digest(manifest.model_dump(exclude_unset=True)):
        raise BundleError(f"{path}: changed since it was written: export it again")
    return manifest


def _check(folder: Path, name: str, wanted: str) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path}: lies outside the bundle")
    _check_regular(path)
    try:
        found = file_hash(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}): export it again") from None
    if found != wanted:
        raise BundleError(
            f"{path}: truncated or changed (SHA-256 {found[:12]}, expected {wanted[:12]}): export it again"
        )


def _check_regular(path: Path) -> None:
    """Reading a pipe or a device might never end."""
    if path.exists() and not path.is_file():
        raise BundleError(f"{path}: is a folder, a pipe or a device, not a regular file: export it again")


def _check_external(folder: Path, name: str, manifest: Manifest) -> None:
    """The files that a model reads weights from must lie in the bundle, and have a hash that was checked."""
    for location in sorted(external_files(folder / name)):
        path = PurePosixPath(name).parent / location
        shown = f"{folder / name}: reads weights from {location[:_SHOWN_CHARS]!r}"
        if path.is_absolute() or ".." in path.parts:
            raise BundleError(f"{shown}, which lies outside the bundle: export it again")
        if str(path) not in manifest.files:
            raise BundleError(f"{shown}, of which {MANIFEST} names no hash: export it again")


def _digest(fields: dict[str, Any]) -> str:
    body = json.dumps({k: v for k, v in fields.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()
