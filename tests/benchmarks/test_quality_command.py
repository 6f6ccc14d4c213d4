"""`swiftrec bench quality`: the bundle's own split, the scripts in other environments, and what is written."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swiftrec.benchmarks import __main__ as program
from swiftrec.benchmarks.peers import install
from swiftrec.benchmarks.quality import command
from swiftrec.benchmarks.quality.evaluation import load_evaluation
from swiftrec.benchmarks.quality.exchange import (
    LIST_LENGTH,
    NO_ITEM,
    LibraryLists,
    LibraryProblem,
    ndcg,
)
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.repeats import ALLOW, EXCLUDE, Repeats
from swiftrec.export.data.split import Protocol, split
from swiftrec.export.evaluate.metrics import RankedCases
from swiftrec.export.evaluate.ranks import RANKS, RecordedRanks
from swiftrec.server.models.bundle import MANIFEST, load_bundle
from tests.benchmarks.quality import ITEMS, answer, positions
from tests.export.tiny import dataset, job, write_data
from tests.server.support.small import write_bundle


def export(artifacts: Path, protocol: Protocol = "leave-one-out", repeats: Repeats = EXCLUDE) -> Path:
    """A bundle of tiny files, and the stages of its export that a comparison reads."""
    write_data(artifacts / ".stages" / "tiny" / "data", timed())
    made = job(artifacts)
    cases = split(timed(), protocol, repeats=repeats).warm
    ranked = RankedCases(np.arange(len(cases.targets)), np.empty((len(cases.targets), 0), np.int64))
    answers = {name: {"ids": ranked, "text": ranked} for name in ("transitions", "static-fp32", "bert1-fp32")}
    for stage in ("verify", "package"):
        made.folder(stage).mkdir()
    RecordedRanks.of(answers, cases, made.settings.seed).save(made.folder("verify"))
    (made.folder("package") / "stage.json").write_text(json.dumps({"key": "k"}))
    fields = {"precision": "fp32", "device": "cpu", "file": "encoder.onnx", "layers": 0, "hidden": 1}
    names = ("static-fp32", "bert1-fp32")
    variants = [{"name": name, "student": name.partition("-")[0], **fields} for name in names]
    folder = write_bundle(made.settings.bundle / "1")
    return write_manifest(folder, {"protocol": protocol, "repeats": repeats, "variants": variants})


def timed() -> Dataset:
    """The tiny data set with times, so that it can be split by them."""
    made = dataset()
    return replace(made, times=[np.arange(len(h), dtype=np.float64) + user for user, h in enumerate(made.histories)])


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return export(tmp_path / "artifacts")


def write_manifest(folder: Path, quality: dict[str, object], export_key: str = "k") -> Path:
    """Give the bundle in a folder this record of its quality."""
    fields = {
        "name": "tiny",
        "quality": quality,
        "export_key": export_key,
        "variants": {"static-fp32": "encoder.tiny-fp32.onnx"},
        "default": {"cpu": "static-fp32"},
    }
    (folder / MANIFEST).write_text(load_bundle(folder).manifest.model_copy(update=fields).sealed().model_dump_json())
    return folder


@pytest.mark.parametrize(
    ("protocol", "repeats"), [("leave-one-out", EXCLUDE), ("leave-one-out", ALLOW), ("time", EXCLUDE)]
)
def test_evaluation_is_the_exports_own_split_of_task_ids(protocol: Protocol, repeats: Repeats, tmp_path: Path) -> None:
    result = load_evaluation(export(tmp_path, protocol, repeats).parent)
    parts = split(timed(), protocol, repeats=repeats)
    assert (result.protocol, result.default) == (protocol, "static-fp32")
    assert set(result.ranks) == {"transitions", "static-fp32"}  # other variants answer ids alike
    assert result.targets.tolist() == parts.warm.targets.tolist()
    assert result.problem.valid.tolist() == parts.valid.tolist()
    assert [h.tolist() for h in result.problem.train] == [h.tolist() for h in parts.train]
    assert [h.tolist() for h in result.problem.known] == [h.tolist() for h in parts.known]
    assert [h.tolist() for h in result.problem.test] == [h.tolist() for h in parts.warm.histories]
    assert result.problem.masks_history == (repeats == EXCLUDE)


@pytest.mark.parametrize("file", ["data/histories.npz", "package/stage.json", "verify/ranks.npz"])
def test_missing_stage_is_named_with_what_to_run(
    file: str, exported: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (exported.parents[1] / ".stages" / "tiny" / file).unlink()
    results = tmp_path / "results"
    assert program.main(["quality", "--bundle", str(exported), "--results", str(results)]) == 2
    said = capsys.readouterr().err
    assert re.match(rf"swiftrec bench quality: \S*{file} is missing, .*: run `swiftrec export --name tiny` with", said)
    assert said.count("\n") == 1
    assert not results.exists()


@pytest.mark.parametrize("file", ["package/stage.json", "verify/ranks.npz"])
def test_damaged_stage_is_named(file: str, exported: Path) -> None:
    (exported.parents[1] / ".stages" / "tiny" / file).write_bytes(b"[]")
    with pytest.raises(RuntimeError, match=rf"{file} cannot be read: run `swiftrec export"):
        load_evaluation(exported)


def test_damaged_data_are_named(exported: Path) -> None:
    (exported.parents[1] / ".stages" / "tiny" / "data" / "histories.npz").write_bytes(b"[]")
    with pytest.raises(RuntimeError, match=r"tiny/data cannot be split \(.*\): run `swiftrec export"):
        load_evaluation(exported)


def test_stages_of_another_export_are_refused(exported: Path) -> None:
    write_manifest(exported, {"protocol": "leave-one-out", "variants": []}, export_key="other")
    with pytest.raises(RuntimeError, match=r"is of another export than .*: give the newest version, or run"):
        load_evaluation(exported)


def test_ranks_of_other_cases_are_refused(exported: Path) -> None:
    verify = exported.parents[1] / ".stages" / "tiny" / "verify"
    recorded = RecordedRanks.load(verify)
    replace(recorded, targets=recorded.targets + 1).save(verify)
    with pytest.raises(RuntimeError, match=rf"{RANKS} is of other cases than the data"):
        load_evaluation(exported)


def test_ranks_without_the_default_variant_are_refused(exported: Path) -> None:
    verify = exported.parents[1] / ".stages" / "tiny" / "verify"
    recorded = RecordedRanks.load(verify)
    replace(recorded, ranks={"transitions": recorded.ranks["transitions"]}).save(verify)
    with pytest.raises(RuntimeError, match=rf"{RANKS} has no ranks of static-fp32 on ids: run"):
        load_evaluation(exported)


def test_bundle_without_interactions_is_refused(exported: Path) -> None:
    write_manifest(exported, {"protocol": "agreement", "variants": []})
    with pytest.raises(RuntimeError, match=r"was exported without interactions: give a bundle that"):
        load_evaluation(exported)


def interpreter(folder: Path, body: str) -> Path:
    """What stands in for the interpreter of another environment: it gets `-m MODULE FOLDER ROW --seeds ...`."""
    file = folder / "python"
    file.write_text(
        f"#!{sys.executable}\nimport sys\nfolder, row, seeds = sys.argv[3], sys.argv[4], sys.argv[6:]\n{body}"
    )
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


_ANSWERS = """
from pathlib import Path
from swiftrec.benchmarks.quality.exchange import HyperparameterTrial, LibraryProblem
from swiftrec.benchmarks.quality.tuning import LibraryRecommender, make_lists
import numpy as np
problem = LibraryProblem.load(Path(folder))
lists = np.full((len(problem.test), 100), -1)
tune, recommend = lambda *_: [HyperparameterTrial({"factors": 1}, 0.1)], lambda *_: lists
make_lists(row, LibraryRecommender("library 1.0", tune, recommend), problem, list(map(int, seeds))).save(Path(folder))
"""


def written(results: Path) -> dict[str, Any]:
    """The only result in a folder of results."""
    (file,) = results.glob("*/quality.json")
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_rows_of_another_environment_are_in_one_table_with_ours(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python, requests = interpreter(tmp_path, _ANSWERS), []

    def installed(name: str, *_: object, **__: object) -> Path:
        requests.append(name)
        if name == "rectools":
            raise install.InstallError("does not install: no network")
        return python

    monkeypatch.setattr(command, "python_of", installed)
    flags = ["--bundle", str(exported), "--rows", "als,sasrec", "--seeds", "2", "--results", str(tmp_path / "results")]
    assert program.main(["quality", *flags]) == 1  # a row is missing
    said = capsys.readouterr()
    assert requests == ["implicit", "rectools"]
    assert "[1/2] als (implicit)\n  als: validation NDCG@10 0.1000 with factors 1\n" in said.err
    assert "als, chosen on validation: factors 1\n" in said.out
    assert "not measured: sasrec: rectools does not install: no network" in said.out
    result = written(tmp_path / "results")
    assert result["is_partial"]
    assert result["bundle"] == {"name": "tiny", "version": "1", "export_key": "k"}
    assert {row["subject"] for row in result["rows"]} == {"transitions", "static-fp32", "als"}
    row = next(row for row in result["rows"] if row["subject"] == "als")
    assert (row["seeds"], row["chosen"], row["ndcg"]["mean"]) == ([7, 8], {"factors": 1}, 0.0)
    assert row["difference"]["mean"] < 0
    assert program.main(["quality", *flags, "--json", "--rows", "item-item"]) == 1
    assert json.loads(capsys.readouterr().out)["skipped"].keys() == {"sasrec"}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("print('no such option'); sys.exit(3)", "its script ended with exit code 3: no such option"),
        ("sys.exit(3)", "its script ended with exit code 3: it printed nothing"),
        ("", r"its script wrote no result that can be read .*: fix swiftrec\.benchmarks\.quality\.peers_implicit"),
        ("open(folder + '/als.json', 'w').write('[]')", "its script wrote no result that can be read"),
    ],
)
def test_script_that_fails_is_named_with_its_last_line(
    body: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "python_of", lambda *_, **__: interpreter(tmp_path, body))
    with pytest.raises(RuntimeError, match=sentence):
        command.measure("als", tmp_path, [7])


def test_interrupted_run_keeps_the_rows_that_were_measured(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"

    def measured(name: str, folder: Path, _seeds: Sequence[int]) -> LibraryLists:
        if name == "item-item":
            assert written(results)["is_partial"]  # the row before it is on disk already
            raise KeyboardInterrupt
        cases = len(LibraryProblem.load(folder).test)
        return answer(np.full((cases, LIST_LENGTH), NO_ITEM, dtype=np.int32))

    monkeypatch.setattr(command, "measure", measured)
    flags = ["--bundle", str(exported), "--rows", "als,item-item,sasrec", "--results", str(results)]
    assert program.main(["quality", *flags]) == 1
    result = written(results)
    assert [row["subject"] for row in result["rows"]][-1] == "als"
    assert (result["is_partial"], result["skipped"]) == (True, {"item-item": "interrupted", "sasrec": "interrupted"})


def test_every_environment_has_a_script_and_pins() -> None:
    for environment in set(command.ENVIRONMENTS.values()):
        assert (Path(command.__file__).parent / f"peers_{environment}.py").exists()
        pins = (command.PINS / f"{environment}.txt").read_text().splitlines()
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins)
        assert environment in {line.split("==")[0] for line in pins}


@pytest.mark.parametrize(("needs_dependencies", "has_flag"), [(True, False), (False, True)])
def test_pip_adds_dependencies_only_where_the_pins_leave_them_open(
    needs_dependencies: bool, has_flag: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(arguments)
        (tmp_path / "implicit").mkdir(exist_ok=True)
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(install, "HOME", tmp_path)
    monkeypatch.setattr(install.subprocess, "run", run)  # type: ignore[attr-defined]
    install.python_of("implicit", command.PINS, needs_dependencies=needs_dependencies)
    assert ("--no-deps" in ran[-1]) == has_flag
    monkeypatch.setattr(install.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "ERROR: no"))  # type: ignore[attr-defined]
    with pytest.raises(install.InstallError, match="or name the others with --rows"):
        install.python_of("rectools", command.PINS, selection="--rows")


def installed_only(environment: str) -> pytest.MarkDecorator:
    """Tests of a script in its own environment, which takes a network and up to 1.3 GB."""
    return pytest.mark.skipif(
        not (install.HOME / environment / install.READY).exists(),
        reason=f"needs {install.HOME / environment}: swiftrec bench quality installs it",
    )


@pytest.mark.parametrize("row", ["als", "item-item"])
@installed_only("implicit")
def test_implicit_learns_which_items_are_taken_together(row: command.RowName, tmp_path: Path) -> None:
    pairs = [positions(0, 1), positions(2, 3)] * 10
    train, valid = [pair[:1] for pair in pairs], np.array([pair[1] for pair in pairs])
    LibraryProblem(ITEMS, True, train, valid, [positions(0), positions(3)]).save(tmp_path)
    assert command.measure(row, tmp_path, [7]).lists[0][:, 0].tolist() == [1, 2]


@installed_only("rectools")
def test_sasrec_of_rectools_learns_which_item_comes_next(tmp_path: Path) -> None:
    users = [(np.arange(12) + start) % 30 for start in range(30)]
    train, valid = [user[:-2] for user in users], np.array([user[-2] for user in users])
    LibraryProblem(30, True, train, valid, [user[:-1] for user in users]).save(tmp_path)
    result = command.measure("sasrec", tmp_path, [7])
    assert ndcg(result.lists[0], np.array([user[-1] for user in users])) > 0.9
    assert len(result.trials) >= 8
