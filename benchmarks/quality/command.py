"""`swiftrec bench quality`: recommenders of other libraries on a bundle's own split, beside ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import report
from swiftrec.benchmarks.extra import sentence
from swiftrec.benchmarks.machine import fingerprint
from swiftrec.benchmarks.peers.install import InstallError, python_of
from swiftrec.benchmarks.quality.exchange import Answer
from swiftrec.benchmarks.quality.figures import Row, own_rows, row_of, table
from swiftrec.benchmarks.quality.tuning import in_words

if TYPE_CHECKING:
    from swiftrec.benchmarks.quality.evaluation import Evaluation

RowName = Literal["sasrec", "als", "item-item"]
ENVIRONMENTS: dict[RowName, str] = {"sasrec": "rectools", "als": "implicit", "item-item": "implicit"}
_INTERRUPTED = "interrupted"
PINS = Path(__file__).parent / "requirements"
_ROOT = Path(__file__).parents[2]
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # the same order of sums in every run


class QualitySettings(BaseSettings):
    """Recommenders of other libraries on a bundle's own split: SASRec, ALS and item-item beside ours.

    Rows: sasrec (RecTools), als and item-item (implicit). Each library is installed once, with pinned packages, into an
    environment under artifacts/.peers (1.3 GB for RecTools with PyTorch). A row is fitted on the training events of
    the bundle's split with each of a few settings, which are judged on the validation events; the best setting is
    fitted again on both and gives lists for the test histories. The test targets never leave this process.

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

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    rows: list[RowName] = Field(list(ENVIRONMENTS), min_length=1, description="rows to measure, such as als,item-item")
    seeds: int = Field(3, ge=1, le=100, description="final fits of each row that is random; the table has their spread")
    seed: int = Field(7, ge=0, description="first of the seeds; settings are chosen with it")
    out: Path = Field(Path("artifacts/quality-peers.json"), description="file that the result is written to")
    as_json: bool = Field(False, description="print the result as JSON instead of a table")


@dataclass(slots=True)
class Result:
    """What was measured so far of the rows that were `asked` for; `skipped` says by row why it could not be."""

    asked: Sequence[RowName]
    rows: list[Row]
    skipped: dict[str, str]

    @property
    def is_partial(self) -> bool:
        """Whether a row is missing."""
        return not {row.subject for row in self.rows}.issuperset(self.asked)


def run(settings: QualitySettings) -> int:
    """Measure each row, print them beside ours, write the result after each; 1 if a row is missing.

    Raises:
        RuntimeError: the stages of the bundle's export are not there.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    evaluation = _load(settings.bundle)
    result = Result(tuple(dict.fromkeys(settings.rows)), own_rows(evaluation), {})
    for _ in _measured(settings, evaluation, result):
        _write(settings.out, _content(settings, evaluation, result))
    content = _content(settings, evaluation, result)
    sys.stdout.write(f"{report.as_json(content) if settings.as_json else _text(evaluation, result)}\n")
    sys.stderr.write(f"written to {settings.out}\n")
    return 1 if result.is_partial else 0


def _measured(settings: QualitySettings, evaluation: Evaluation, result: Result) -> Iterator[None]:
    """Measure row by row into `result`, until an interrupt."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    with tempfile.TemporaryDirectory(prefix="swiftrec-quality-") as scratch:
        evaluation.problem.save(Path(scratch))
        for number, name in enumerate(result.asked, 1):
            sys.stderr.write(f"[{number}/{len(result.asked)}] {name} ({ENVIRONMENTS[name]})\n")
            try:
                result.rows.append(row_of(measure(name, Path(scratch), seeds), evaluation))
            except RuntimeError as error:
                result.skipped[name] = str(error)
                sys.stderr.write(f"benchmarks quality: {name}: {error}\n")
            except KeyboardInterrupt:
                result.skipped.update(dict.fromkeys(result.asked[number - 1 :], _INTERRUPTED))
                sys.stderr.write("interrupted: what was measured is kept\n")
            yield
            if result.skipped.get(name) == _INTERRUPTED:
                return


def measure(name: RowName, folder: Path, seeds: Sequence[int]) -> Answer:
    """The answer of one row to the problem in `folder`, by the interpreter of its library's environment.

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
        raise RuntimeError(f"its script ended with exit code {code}: {last_line or 'without a word'}")
    try:
        return Answer.load(folder, name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeError(f"its script left no answer that can be read ({sentence(error)}): mend {module}") from None


def _load(bundle: Path) -> Evaluation:
    try:
        from swiftrec.benchmarks.quality.evaluation import load_evaluation  # needs the extra export
    except ImportError as error:
        raise RuntimeError(f"the split needs the extra export ({error.name} is missing): make setup") from None
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


def _text(evaluation: Evaluation, result: Result) -> str:
    problem = evaluation.problem
    facts = f"{evaluation.bundle}, {evaluation.protocol}: {len(problem.test)} test cases, {problem.items} items"
    chosen = [f"{row.subject}, chosen on validation: {in_words(row.chosen)}" for row in result.rows if row.chosen]
    skipped = [f"not measured: {name}: {reason}" for name, reason in result.skipped.items()]
    return "\n".join([facts, table(result.rows, evaluation.default), *chosen, *skipped])


def _content(settings: QualitySettings, evaluation: Evaluation, result: Result) -> dict[str, Any]:
    return {
        "machine": fingerprint(),
        "bundle": evaluation.bundle.fields(),
        "settings": settings.model_dump(mode="json"),
        "protocol": evaluation.protocol,
        "cases": len(evaluation.problem.test),
        "items": evaluation.problem.items,
        "default": evaluation.default,
        "partial": result.is_partial,
        "skipped": result.skipped,
        "rows": [asdict(row) for row in result.rows],
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.partial")
    scratch.write_text(json.dumps(report.finite(content), indent=1, allow_nan=False) + "\n")
    scratch.replace(path)
