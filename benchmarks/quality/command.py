"""`swiftrec bench quality`: recommenders of other libraries on a bundle's split, compared with ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import result_files
from swiftrec.benchmarks.optional_deps import error_sentence
from swiftrec.benchmarks.peers.install import InstallError, python_of
from swiftrec.benchmarks.quality.exchange import LibraryLists
from swiftrec.benchmarks.quality.figures import QualityRow, own_rows, row_of, table
from swiftrec.benchmarks.quality.tuning import in_words
from swiftrec.benchmarks.result_files import RESULTS, ToolResult

if TYPE_CHECKING:
    from swiftrec.benchmarks.quality.evaluation import BundleEvaluation

RowName = Literal["sasrec", "als", "item-item"]
ENVIRONMENTS: dict[RowName, str] = {"sasrec": "rectools", "als": "implicit", "item-item": "implicit"}
_INTERRUPTED = "interrupted"
PINS = Path(__file__).parent / "requirements"
_ROOT = Path(__file__).parents[3]
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # the same order of sums in every run


class QualitySettings(BaseSettings):
    """Compare a bundle with SASRec, ALS and item-item models.

    Rows: sasrec (RecTools), als and item-item (implicit). Each library is installed once, with pinned packages, into an
    environment under artifacts/.peers (1.3 GB for RecTools with PyTorch). A row is fitted on the training events of
    the bundle's split with each of a few settings, which are judged on the validation events; the best setting is
    fitted again on both and gives lists for the test histories. The other processes never get the test targets.

    Needs the stages of the bundle's export (artifacts/.stages/NAME). Prints NDCG@10 and Recall@10 of the task "ids"
    over the whole catalogue with 95 % bootstrap intervals, and the paired difference to the bundle's default variant.
    Our own rows are the ranks that the export recorded. Exit code 1 if a row could not be measured. On MovieLens-100K
    als and item-item take seconds, and sasrec some minutes for the choice and for each seed.
    """

    model_config = SettingsConfigDict(
        cli_prog_name="swiftrec bench quality",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_shortcuts={"as-json": "json"},
    )
    RENAMED: ClassVar = {"out": "results"}

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    rows: list[RowName] = Field(list(ENVIRONMENTS), min_length=1, description="rows to measure, e.g. als")
    seeds: int = Field(3, ge=1, le=100, description="number of final fits of each random row, for its range")
    seed: int = Field(7, ge=0, description="first seed, also used to choose settings")
    results: Path = Field(RESULTS, description="folder of results")
    as_json: bool = Field(False, description="print the result as JSON instead of a table")


class QualityResult(ToolResult):
    """Recommenders of other libraries, and ours, on the same cases."""

    file: ClassVar[str] = "quality.json"
    tool: ClassVar[str] = "swiftrec bench quality"

    protocol: str = ""
    cases: int = 0
    items: int = 0
    default: str = Field("", description="the bundle's default variant")
    skipped: dict[str, str] = Field({}, description="row -> why it was not measured")
    rows: list[QualityRow] = Field([], description="one for each recommender")


def run(settings: QualitySettings) -> int:
    """Measure each row, print them with ours, and save the result after each; 1 if a row is missing.

    Raises:
        RuntimeError: the stages of the bundle's export are missing.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    evaluation = _load(settings.bundle)
    result = QualityResult.begin(evaluation.bundle, settings)
    problem = evaluation.problem
    result.protocol, result.default = evaluation.protocol, evaluation.default
    result.cases, result.items, result.rows = len(problem.test), problem.items, own_rows(evaluation)
    folder = result_files.new_folder(settings.results, result.machine)
    names = list(dict.fromkeys(settings.rows))
    for _ in _measured(settings, evaluation, result, names):
        missing = [name for name in names if name not in {row.subject for row in result.rows}]
        result.finish(f"not measured: {', '.join(missing)}" if missing else "")
        file = result_files.save(folder, result)
    if settings.as_json:
        sys.stdout.write(f"{result.model_dump_json()}\n")
    else:
        sys.stdout.write(f"{_text(evaluation, result)}\n")
    sys.stderr.write(f"written to {file}\n")
    return 1 if result.is_partial else 0


def _measured(
    settings: QualitySettings, evaluation: BundleEvaluation, result: QualityResult, names: Sequence[RowName]
) -> Iterator[None]:
    """Measure row by row into `result`, until an interrupt."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    with tempfile.TemporaryDirectory(prefix="swiftrec-quality-") as scratch:
        evaluation.problem.save(Path(scratch))
        for number, name in enumerate(names, 1):
            sys.stderr.write(f"[{number}/{len(names)}] {name} ({ENVIRONMENTS[name]})\n")
            try:
                result.rows.append(row_of(measure(name, Path(scratch), seeds), evaluation))
            except RuntimeError as error:
                result.skipped[name] = str(error)
                sys.stderr.write(f"swiftrec bench quality: {name}: {error}\n")
            except KeyboardInterrupt:
                result.skipped.update(dict.fromkeys(names[number - 1 :], _INTERRUPTED))
                sys.stderr.write("interrupted: what was measured is kept\n")
            yield
            if result.skipped.get(name) == _INTERRUPTED:
                return


def measure(name: RowName, folder: Path, seeds: Sequence[int]) -> LibraryLists:
    """The lists of one row for the problem in `folder`, made by the interpreter of its library's environment.

    Raises:
        RuntimeError: the library does not install, or its script ended with an error.
    """
    environment = ENVIRONMENTS[name]
    try:
        python = python_of(environment, PINS, selection="--rows", needs_dependencies=True)
    except InstallError as error:
        raise RuntimeError(f"{environment} {error}") from None
    module = f"swiftrec.benchmarks.quality.peers_{environment}"
    command = [str(python), "-m", module, str(folder.absolute()), name, "--seeds", *map(str, seeds)]
    code, last_line = _run(command)
    if code:
        raise RuntimeError(f"its script ended with exit code {code}: {last_line or 'it printed nothing'}")
    try:
        return LibraryLists.load(folder, name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeError(
            f"its script wrote no result that can be read ({error_sentence(error)}): fix {module}"
        ) from None


def _load(bundle: Path) -> BundleEvaluation:
    try:
        from swiftrec.benchmarks.quality.evaluation import load_evaluation  # needs the extra export
    except ImportError as error:
        raise RuntimeError(
            f"the split needs the extra export ({error.name} is missing): pip install 'swiftrec[export]'"
        ) from None
    return load_evaluation(bundle)


def _run(command: Sequence[str]) -> tuple[int, str]:
    """Run a script and pass its progress on; its exit code and the last line that it wrote."""
    environment = {**os.environ, **_THREADS, "PYTHONPATH": str(_ROOT)}
    last: deque[str] = deque(maxlen=1)
    with subprocess.Popen(  # noqa: S603
        command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            for line in process.stdout or ():
                sys.stderr.write(f"  {line}")
                if line.strip():
                    last.append(line.strip())
        except BaseException:
            process.kill()
            raise
    return process.returncode, "".join(last)


def _text(evaluation: BundleEvaluation, result: QualityResult) -> str:
    problem = evaluation.problem
    headline = f"{evaluation.bundle}, {evaluation.protocol}: {len(problem.test)} test cases, {problem.items} items"
    settings = [f"{row.subject}, chosen on validation: {in_words(row.chosen)}" for row in result.rows if row.chosen]
    skipped = [f"not measured: {name}: {reason}" for name, reason in result.skipped.items()]
    return "\n".join([headline, table(result.rows, evaluation.default), *settings, *skipped])
