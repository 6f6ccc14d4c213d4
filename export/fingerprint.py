"""Fingerprints of the inputs of a stage: files by their content, code by all modules that a stage imports."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path

from swiftrec.export.errors import ExportError

PACKAGE = "swiftrec"
WITHOUT_EFFECT = (
    "swiftrec.export.config",  # the key of a stage has the settings that it reads
    "swiftrec.export.training_settings",
    "swiftrec.export.errors",
    "swiftrec.export.fingerprint",
    "swiftrec.export.folders",
    "swiftrec.export.job",
    "swiftrec.export.progress",
    "swiftrec.export.stages.order",
    "swiftrec.export.stages.resume",
    "swiftrec.export.stages.runner",
    "swiftrec.export.stages.baseline_gate",  # accepts or refuses what is measured elsewhere
    "swiftrec.server.catalogue.catalogue",  # names of files, and the search of the server
    "swiftrec.server.config",
    "swiftrec.server.domain",  # requests of the pipeline
    "swiftrec.server.errors",
    "swiftrec.server.output",
    "swiftrec.server.pipeline",  # `package` checks a finished bundle with it
    "swiftrec.server.settings_reader",
    "swiftrec.server.tuning.machine",  # the name of this machine
)
"""Modules and packages that cannot change what a stage writes."""
_TEMPLATES = "*.jinja"
_CACHED_FILES = 100_000


def of_path(path: Path, *, without: Path | None = None) -> list[list[str]]:
    """Name and SHA-256 of every file in a folder (or of one file), sorted; times do not count.

    Args:
        path: a folder or a file.
        without: a folder in it whose files do not count; one that `path` is, or is in, is no such folder.

    Raises:
        ExportError: a file cannot be read.
    """
    left_out = without.resolve() if without is not None and _is_inside(without, path) else None
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        counted = [file for file in files if left_out is None or not file.resolve().is_relative_to(left_out)]
        return [[str(file.relative_to(path)), _hash_of(file)] for file in counted]
    except OSError as error:
        raise ExportError(
            f"{error.filename or path} cannot be read ({error.strerror}): make it readable, and leave the folder alone "
            "while the export reads it"
        ) from None


def _is_inside(inner: Path, outer: Path) -> bool:
    return inner.resolve() != outer.resolve() and inner.resolve().is_relative_to(outer.resolve())


def of_code(module: str) -> str:
    """Hash of a module and of every module of this project that it imports, directly or not.

    Imports are read from the source files, those inside functions too. `WITHOUT_EFFECT` is left out, with its imports.
    Templates in the folder of an imported module count, too.

    Raises:
        ExportError: there is no such module.
    """
    modules = _imported(module)
    templates = {path for folder in {file.parent for file in modules.values()} for path in folder.glob(_TEMPLATES)}
    hashes = {name: _hash_of(path) for name, path in modules.items()}
    hashes |= {f"{path.parent.name}/{path.name}": _hash_of(path) for path in templates}
    return hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()


def _imported(module: str) -> dict[str, Path]:
    """The module and all that it imports, with their files."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ExportError(f"stage module {module} is missing")
    files, queue = {module: Path(spec.origin)}, [module]
    while queue:
        file = files[queue.pop()]
        for name in _imports_of(file, *_state(file)) - files.keys():
            path = _package_folder().joinpath(*name.split(".")[1:]).with_suffix(".py")
            if path.is_file() and not _is_without_effect(name):
                files[name] = path
                queue.append(name)
    return files


def _is_without_effect(name: str) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in WITHOUT_EFFECT)


def _package_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ExportError(f"package {PACKAGE} is missing")
    return Path(next(iter(spec.submodule_search_locations)))


@functools.lru_cache(_CACHED_FILES)
def _imports_of(file: Path, *_state: int) -> frozenset[str]:
    """What a file imports from the package: modules, and names in them, which may be modules."""
    names = set[str]()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    return frozenset(name for name in names if name.startswith(f"{PACKAGE}."))


def _hash_of(file: Path) -> str:
    """Read again only if size, times or inode changed: the key of a stage is computed several times in a run."""
    return _hash(file, *_state(file))


def _state(file: Path) -> tuple[int, int, int, int]:
    """Changes whenever the content does."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@functools.lru_cache(_CACHED_FILES)
def _hash(file: Path, *_state: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
