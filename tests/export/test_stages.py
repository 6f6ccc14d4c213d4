"""Every stage's key has the code that its result depends on: an edit of a score's parts makes figures stale."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from swiftrec.export.stages.order import STAGES, Stage
from tests.conftest import ROOT

# What stages import only constants and types from, or what says something of this machine and of no result.
_NO_RESULT = {
    "swiftrec.server.catalogue.catalogue",  # names of files
    "swiftrec.server.config",
    "swiftrec.server.errors",
    "swiftrec.server.models.bundle",  # names of files, and what the bundle that is written must look like
    "swiftrec.server.tuning.machine",
}
_NO_COMPUTATION = {  # by stage
    "data": {"swiftrec.export.models.teacher"},  # reads one that came in
    # Kinds of events, and what the package has for students: words, and a refusal that writes nothing.
    "finetune": {
        "swiftrec.server.models.networks",
        "swiftrec.server.catalogue.words",
        "swiftrec.export.evaluate.baseline_gate",
    },
    "blend": {"swiftrec.server.models.session"},  # opens the encoders of the server, blend has PyTorch's
    "distil": {"swiftrec.export.evaluate.baseline_gate"},
    "verify": {"swiftrec.export.evaluate.final_record"},
}
_SHARED = {"config", "errors", "fingerprint", "folders", "gates", "progress", "quality", "stage", "stages", "variants"}


def imported(file: Path) -> Iterator[str]:
    """The modules of this project that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in {"export", "server"}:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = (ROOT / f"{whole.replace('.', '/')}.py").exists()
                yield whole if is_module else node.module


def file_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def package(stage: Stage) -> str:
    return stage.module.rpartition(".")[0]


def before(stage: Stage) -> list[Stage]:
    """The stage and all that it follows from."""
    by_name = {one.name: one for one in STAGES}
    found = {stage.name: stage}
    for need in stage.needs:
        found |= {one.name: one for one in before(by_name[need])}
    return [*found.values()]


def missing(stage: Stage) -> set[str]:
    """Modules that the stage's code uses and no key has."""
    known = before(stage)
    packages, code = {package(one) for one in known}, {module for one in known for module in one.code}
    excused = _NO_RESULT | _NO_COMPUTATION.get(stage.name, set())
    files = [*(ROOT / package(stage).replace(".", "/")).glob("*.py")]
    files += [file_of(module) for module in stage.code if module.startswith("server.")]
    used = {module for file in files for module in imported(file)}
    used = {module for module in used if module.split(".")[0] == "server" or module.split(".")[1] not in _SHARED}
    return {m for m in used - code - excused if m.rpartition(".")[0] not in packages}


@pytest.mark.parametrize("stage", [one for one in STAGES if one.name != "package"], ids=lambda one: one.name)
def test_code_that_a_stage_computes_with_is_in_its_key(stage: Stage) -> None:
    assert missing(stage) == set()


def test_code_that_is_missing_in_a_key_is_found() -> None:
    (blend,) = (one for one in STAGES if one.name == "blend")
    bare = Stage(blend.name, blend.module, blend.settings, blend.needs)
    assert {
        "swiftrec.server.catalogue.blend",
        "swiftrec.server.catalogue.sparse",
        "swiftrec.export.evaluate.recommender",
    } <= missing(bare)


def test_every_module_of_a_key_exists() -> None:
    for module in {module for stage in STAGES for module in stage.code}:
        assert importlib.util.find_spec(module) is not None


def test_pipeline_and_api_of_the_server_make_no_stage_stale() -> None:
    served = {module for stage in STAGES for module in stage.code if module.startswith("server.")}
    others = {module for module in served if module.split(".")[1] not in {"catalogue", "models", "parts"}}
    assert others == {"swiftrec.server.text"}  # says which cells of a table are empty
