"""Rankers as graphs: parity that sees a wrong weight; a small one that learns the answers of the teacher's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from swiftrec.export import gates, quality
from swiftrec.export.checkpoints.head import Head, HeadShape
from swiftrec.export.compress.ranker_graphs import (
    BIG,
    SMALL,
    RankerGraph,
    made_users,
    measure_ranker_parity,
    read_rankers,
    save_rankers,
    time_rankers,
)
from swiftrec.export.config import ExportSettings
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.errors import ExportError, GateError
from swiftrec.export.evaluate.assemble import _curves
from swiftrec.export.evaluate.context import Ground
from swiftrec.export.evaluate.rankers import judge_rankers
from swiftrec.export.models.ranker import Ranker
from swiftrec.export.models.rankers import SMALL as KINDS
from swiftrec.export.models.rankers import make_ranker, make_small
from swiftrec.export.models.teacher import Teacher, load_teacher, save_teacher
from swiftrec.export.stages import blend as blend
from swiftrec.export.stages import distil, finetune
from swiftrec.export.stages.onnx import _rankers, trace_ranker
from swiftrec.export.train import small
from swiftrec.export.train.pretrained import parts_of
from swiftrec.export.train.small import load_small
from tests.export.tiny import StoppedJob, dataset, job

_WIDTH, _LONGEST = 16, 12


def ranker(kind: str = "transformer") -> nn.Module:
    torch.manual_seed(3)
    made = make_ranker(kind, _WIDTH, _LONGEST)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


@pytest.mark.parametrize("kind", ["transformer", "gru", "mlp", "mean"])
def test_graph_of_every_ranker_does_what_pytorch_does(tmp_path: Path, kind: str) -> None:
    parity = trace_ranker(BIG, ranker(kind), tmp_path / "ranker.onnx", _WIDTH, _LONGEST)
    assert parity <= gates.GATES.max_ranker_parity


@pytest.mark.parametrize("kind", list(KINDS))
def test_parity_sees_a_wrong_weight(tmp_path: Path, kind: str) -> None:
    """Negative control."""
    trace_ranker(BIG, ranker(kind), tmp_path / "ranker.onnx", _WIDTH, _LONGEST)
    other = ranker(kind)
    with torch.no_grad():
        next(p for name, p in other.named_parameters() if name == "out.weight")[0, 0] += 0.01
    assert measure_ranker_parity(other, tmp_path / "ranker.onnx", _WIDTH, _LONGEST) > gates.GATES.max_ranker_parity


class Careless(nn.Module):
    """A ranker that reads the padding, as a graph might that lost its mask."""

    def forward(self, vectors: torch.Tensor, kinds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The mean over the row, padding and all."""
        return (vectors + 0 * (kinds + mask).unsqueeze(-1)).mean(1, keepdim=True).expand_as(vectors)


def test_ranker_that_depends_on_its_batch_is_refused_with_value_and_threshold(tmp_path: Path) -> None:
    """Negative control: alone it is right."""
    with pytest.raises(GateError, match=r"ranker: parity with PyTorch 0\.\d+, at most 0\.0001"):
        trace_ranker(BIG, Careless(), tmp_path / "ranker.onnx", _WIDTH, _LONGEST)


def test_made_users_have_every_length_and_every_kind() -> None:
    users = made_users(48, 4, _LONGEST)
    assert {len(user.kinds) for user in users} == set(range(1, _LONGEST + 1))
    assert {int(kind) for user in users for kind in user.kinds} == {0, 1, 2}


def test_small_ranker_has_fewer_weights_and_half_of_the_layers() -> None:
    for kind in KINDS:
        sizes = [
            sum(p.numel() for p in made.parameters()) for made in (make_small(kind, 16, 8), make_ranker(kind, 16, 8))
        ]
        assert sizes[0] < 0.65 * sizes[1], kind
    made = make_small("transformer", 16, 8)
    assert isinstance(made, Ranker)
    assert len(made.blocks) == 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A tiny teacher, its student and its small ranker, as graphs."""
    made = job(tmp_path_factory.mktemp("tiny"), "--small-ranker", "auto", "--ladder", "static")
    for stage, name in ((finetune, "finetune"), (blend, "blend"), (distil, "distil")):
        made.folder(name).mkdir()
        stage.run(made, made.folder(name))
    made.folder("onnx").mkdir()
    save_rankers(_rankers(made, made.folder("onnx")), made.folder("onnx"))
    return made


def test_small_ranker_is_traced_and_timed_beside_the_teachers(tiny: StoppedJob) -> None:
    big, little = read_rankers(tiny.folder("onnx"))
    assert (big.name, little.name) == (BIG, SMALL)
    assert (tiny.folder("onnx") / "ranker.small.onnx").stat().st_size < (
        tiny.folder("onnx") / "ranker.onnx"
    ).stat().st_size
    for graph in (big, little):
        assert graph.parity <= gates.GATES.max_ranker_parity
        assert graph.ms_batch1 > 0 < graph.users_per_s_core


def test_small_ranker_learns_the_teachers_users(tmp_path: Path) -> None:
    made = job(tmp_path, "--small-ranker", "auto")
    made.folder("finetune").mkdir()
    finetune.run(made, made.folder("finetune"))
    teacher = load_teacher(made.folder("finetune"))
    lesson = small._lesson(made, teacher, parts_of(made, Dataset.load(made.folder("data"))))
    start = small._start(teacher)
    object.__setattr__(made.settings, "preset", "quick")  # three epochs
    losses = list(small._train(made, start, lesson))
    assert losses[-1] < 0.7 * losses[0]


def test_same_seed_gives_the_same_small_ranker(tiny: StoppedJob, tmp_path: Path) -> None:
    small.run(tiny, tmp_path)
    again, first = load_small(tmp_path), load_small(tiny.folder("distil"))
    assert again is not None
    assert first is not None
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, first.state_dict()[name]), name


def test_no_small_ranker_unless_asked(tmp_path: Path) -> None:
    assert load_small(tmp_path) is None
    assert not job(tmp_path).settings.has_small_ranker


@pytest.mark.parametrize(
    ("wish", "gate", "serves"),
    [("auto", 0.0, "ranker.small"), ("auto", 9.0, "ranker"), ("always", 9.0, "ranker.small")],
)
def test_small_ranker_serves_within_its_gates_or_if_it_must(
    tiny: StoppedJob, monkeypatch: pytest.MonkeyPatch, wish: str, gate: float, serves: str
) -> None:
    rule = quality.Quality(shipped={}, default={}, ranker={"ids": gate})
    monkeypatch.setattr("swiftrec.export.evaluate.rankers.QUALITY", rule)
    monkeypatch.setattr(tiny.settings, "small_ranker", wish)
    ground = Ground.load(tiny)
    teacher = ground.teacher.answers(ground.tasks, ground.teacher.of_items(ground.tasks))
    big, little = judge_rankers(tiny, ground, teacher)
    assert [record.file for record in (big, little) if record.shipped] == [f"{serves}.onnx"]
    assert not big.retained
    assert {"ids", "text", "query"} <= little.retained.keys()
    assert ("short of 9.000" in str(little)) == (gate == 9.0)
    parity, *answers = little.gates
    assert [one.gate for one in big.gates] == [parity.gate]
    assert (parity.value, parity.threshold, parity.passed) == (little.parity, gates.GATES.max_ranker_parity, True)
    assert [(one.gate, one.value, one.threshold, one.passed) for one in answers] == [
        ("ids", little.retained["ids"].mean, gate, gate == 0.0)
    ]
    assert str(parity) in str(little)


def test_rankers_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = [RankerGraph(BIG, 1.2, 1e-6, 0.3, 900.0)]
    save_rankers(found, tmp_path)
    assert read_rankers(tmp_path) == found


def test_times_are_of_each_ranker(tmp_path: Path) -> None:
    trace_ranker(BIG, ranker(), tmp_path / "ranker.onnx", _WIDTH, _LONGEST)
    times = time_rankers({BIG: tmp_path / "ranker.onnx"}, _WIDTH, _LONGEST)
    assert times.keys() == {BIG}
    assert min(times[BIG]) > 0


def test_ranker_without_a_small_form_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="mlp is the smallest there is"):
        ExportSettings(small_ranker="auto", ranker="mlp", _cli_parse_args=[])
    made = job(tmp_path, "--small-ranker", "auto")
    made.folder("finetune").mkdir()
    save_teacher(Teacher(16, 16, 24, 17, ranker="mean"), made.folder("finetune"))
    with pytest.raises(ExportError, match="--small-ranker: there is none of mean"):
        small.run(made, tmp_path)
    assert not (tmp_path / "ranker.json").exists()


def adopt_by(made: StoppedJob, ranker: str | None, histories: list[NDArray[np.int64]]) -> None:
    """Turn the job's checkpoint into a recommender that is adopted, with `ranker` or with the mean."""
    checkpoint = made.folder("data") / "checkpoint"
    Head(HeadShape("bi-encoder", "mean")).save(checkpoint)
    if ranker:
        save_teacher(Teacher(16, 16, 24, 17, ranker=ranker), checkpoint)
    replace(dataset(), histories=histories).save(made.folder("data"))


@pytest.mark.parametrize(
    ("ranker", "users", "refused"),
    [
        (None, 12, "none of mean"),
        ("mlp", 12, "none of mlp"),
        ("gru", 0, "learns from interactions, and there"),
    ],
)
def test_small_ranker_that_cannot_be_is_refused_before_anything_is_trained(
    tmp_path: Path, ranker: str | None, users: int, refused: str
) -> None:
    made = job(tmp_path, "--small-ranker", "auto")
    adopt_by(made, ranker, dataset().histories[:users])
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ExportError, match=f"--small-ranker.* {refused}"):
        finetune.run(made, out)
    assert not [*out.iterdir()]


def test_adopted_ranker_with_a_small_form_and_interactions_is_not_refused(tmp_path: Path) -> None:
    made = job(tmp_path, "--small-ranker", "auto")
    adopt_by(made, "gru", dataset().histories)
    small.check(made)


def mappings(made: StoppedJob) -> int:
    """How often this process has mapped the stage's text vectors."""
    return Path("/proc/self/maps").read_text().count(str(made.folder("finetune").resolve() / "pooled.npy"))


def test_small_ranker_reads_what_the_teacher_read_and_maps_the_vectors(tiny: StoppedJob) -> None:
    before = mappings(tiny)
    split = parts_of(tiny, Dataset.load(tiny.folder("data")))
    lesson = small._lesson(tiny, load_teacher(tiny.folder("finetune")), split)
    assert lesson.world.negatives is None  # --loss auto: the whole of a small catalogue, as in fine-tuning
    assert mappings(tiny) == before + 1


def test_nothing_is_kept_from_an_adopted_recommender(tmp_path: Path) -> None:
    made = job(tmp_path)
    often = [np.arange(24, dtype=np.int64)] * 12  # every item is taken often enough to be kept from training
    assert len(parts_of(made, replace(dataset(), histories=often)).cold) == 1
    adopt_by(made, "gru", often)
    assert not len(parts_of(made, replace(dataset(), histories=often)).cold)


def test_record_of_the_training_has_its_losses(tiny: StoppedJob) -> None:
    facts = json.loads((tiny.folder("distil") / "ranker.json").read_text())
    assert facts["shape"] == {"kind": "transformer", "dimensions": 32, "max_length": 17}
    assert len(facts["losses"]) == tiny.settings.plan.distil_epochs
    assert [row["loss"] for row in _curves(tiny)["ranker.small"]] == facts["losses"]
