"""The bundle: a verified, versioned directory. Loading checks the hash of every file; errors name the file."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from swiftrec.server.errors import BundleError
from swiftrec.server.models.device import DEVICES
from swiftrec.server.models.external_data import external_files
from swiftrec.server.parts import TABLES

MANIFEST = "manifest.json"
FORMAT = 2
READ_FORMATS = (1, FORMAT)
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
RANKER, SENTENCES = "ranker.onnx", "sentences.npy"
_MAX_SHOWN_CHARS = 200  # of a path, a field or a value in an error message
_REQUIRED = ("tokenizer.json", RANKER, "items.jsonl", "vectors.npy")
_FIELDS = TypeAdapter(dict[str, Any])


class Manifest(BaseModel):
    """`manifest.json`. `digest` is the SHA-256 of the manifest itself without that field.

    `dimensions` is the length of the ranker's vectors and of the encoders' ranker half, `sentence_dimensions` that of
    the encoders' sentence half (0: none). `exclude_history` is the default for requests that do not set it. `blend` has
    the weights of the parts of a score (`server.catalogue.blend`), `same_item` the lowest cosine at which a text counts
    as an item.
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
    def has_tables(self) -> bool:
        """Whether the bundle has the tables of memory and words; without them the score is the ranker's alone."""
        return bool(self.blend) or any(name in self.files for name in TABLES)

    @property
    def encoder_dimensions(self) -> int:
        """Length of the encoders' vectors, both halves."""
        return self.dimensions + self.sentence_dimensions

    def sealed(self) -> Manifest:
        """The manifest with its digest."""
        return self.model_copy(update={"digest": _digest(self.model_dump())})


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files all have the hashes of its manifest."""

    folder: Path
    manifest: Manifest

    def variant(self, device: str, requested: str | None) -> str:
        """Full name of an encoder, e.g. "bert3-int8".

        Args:
            device: a name in `DEVICES`.
            requested: a full name, or only a precision ("int8") for the student of the device's default; the device's
                default if not given.

        Raises:
            BundleError: the bundle has no such variant.
        """
        defaults = self.manifest.default
        borrowed = defaults.get(DEVICES[device].default_of or "cpu")
        default = defaults.get(device) or borrowed or defaults.get("cpu", "")
        names = [default] if requested is None else [requested, f"{default.rpartition('-')[0]}-{requested}"]
        for name in names:
            if name in self.manifest.variants:
                return name
        available = ", ".join(self.manifest.variants)
        raise BundleError(f"{self.folder}: no encoder variant {names[0]!r}: use one of {available}")

    def encoder(self, device: str, variant: str | None) -> Path:
        """Path of the encoder graph; arguments and errors as in `variant`."""
        return self.folder / self.manifest.variants[self.variant(device, variant)]


def find_bundle(path: Path) -> Path:
    """The bundle at `path`, or the highest version below it.

    Raises:
        BundleError: there is none.
    """
    if (path / MANIFEST).exists():
        return path
    existing = versions(path)
    if not existing:
        raise BundleError(
            f"{path}: has no {MANIFEST} and no version folder: run swiftrec export, or give another --bundle"
        )
    return path / str(max(existing))


def versions(folder: Path) -> list[int]:
    """The versions in `folder`, unsorted: the folders whose name is a number of 1 to 18 digits."""
    return [int(path.name) for path in folders_in(folder) if _VERSION.fullmatch(path.name)]


def folders_in(folder: Path) -> list[Path]:
    """The folders in `folder`; none if it does not exist or cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry) for entry in entries if entry.is_dir()]
    except OSError:
        return []


def load_bundle(path: Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        BundleError: names the file and the error.
    """
    folder = find_bundle(path)
    manifest = _manifest(folder / MANIFEST)
    sentences = (SENTENCES,) if manifest.sentence_dimensions else ()
    tables = TABLES if manifest.has_tables else ()
    for name in (*_REQUIRED, *sentences, *tables, *manifest.variants.values()):
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST}: has no hash of {name}: export it again")
    for name, expected in manifest.files.items():
        _check(folder, name, expected)
    for name in {RANKER, *manifest.variants.values()}:
        _check_external(folder, name, manifest)
    return Bundle(folder, manifest)


def check_version(bundle: Bundle) -> None:
    """Check that the folder of a version contains that version.

    Raises:
        BundleError: the folder contains another version.
    """
    if bundle.folder.name != str(bundle.manifest.version):
        raise BundleError(f"{bundle.folder}: contains version {bundle.manifest.version}: rename the folder")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def upgrade(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a manifest of format 1 in the present format; those of other formats unchanged.

    A bundle of format 1 has no sentence vectors, memory and words: texts are not recognised as items, and the score is
    the ranker's alone.
    """
    if fields.get("format") != 1:
        return fields
    return fields | {"format": FORMAT, "sentence_dimensions": 0, "blend": [], "same_item": 2.0}


def _manifest(path: Path) -> Manifest:
    _check_regular(path)
    try:
        fields = _FIELDS.validate_json(path.read_bytes())
        if (written := fields.get("format", FORMAT)) not in READ_FORMATS:
            readable = " and ".join(map(str, READ_FORMATS))
            found_format = repr(written)[:_MAX_SHOWN_CHARS]
            raise BundleError(
                f"{path}: has format {found_format}, this server reads formats {readable}: export it again"
            )
        manifest = Manifest.model_validate(upgrade(fields))
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise BundleError(f"{path}: {_fault(error)}: export it again") from None
    if manifest.digest != _digest(fields):
        raise BundleError(f"{path}: was changed after it was written: export it again")
    return manifest


def _fault(error: ValidationError) -> str:
    """The first invalid field and the reason."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))[:_MAX_SHOWN_CHARS]
    return f"field {name!r} is invalid ({first['msg']})" if name else f"is no manifest ({first['msg']})"


def _check(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path}: is outside the bundle")
    _check_regular(path)
    try:
        actual = file_hash(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}): export it again") from None
    if actual != expected:
        raise BundleError(
            f"{path}: truncated or changed (SHA-256 {actual[:12]}, expected {expected[:12]}): export it again"
        )


def _check_regular(path: Path) -> None:
    """Reject pipes and devices, since reading them may block."""
    if path.exists() and not path.is_file():
        raise BundleError(f"{path}: is a folder, a pipe or a device, not a regular file: export it again")


def _check_external(folder: Path, name: str, manifest: Manifest) -> None:
    """Check that the files that a model reads weights from are in the bundle and have a hash."""
    for location in sorted(external_files(folder / name)):
        path = PurePosixPath(name).parent / location
        problem = f"{folder / name}: reads weights from {location[:_MAX_SHOWN_CHARS]!r}"
        if path.is_absolute() or ".." in path.parts:
            raise BundleError(f"{problem}, which is outside the bundle: export it again")
        if str(path) not in manifest.files:
            raise BundleError(f"{problem}, of which {MANIFEST} has no hash: export it again")


def _digest(fields: dict[str, Any]) -> str:
    body = json.dumps({k: v for k, v in fields.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()
