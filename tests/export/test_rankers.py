"""The ranker as a graph: parity sees a wrong weight, and its size and speed are recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from swiftrec.export import gates
from swiftrec.export.checkpoints.head import Head, HeadShape
from swiftrec.export.compress.ranker_graphs import measure_ranker_parity, random_users, read_ranker, save_ranker
from swiftrec.export.errors import GateError
from swiftrec.export.models.rankers import make_ranker
from swiftrec.export.models.teacher import Teacher, save_teacher
from swiftrec.export.schema.models import RankerRecord
from swiftrec.export.stages.onnx import _ranker, trace_ranker
from swiftrec.export.train.pretrained import split_of
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
def test_graph_of_every_ranker_equals_pytorch(tmp_path: Path, kind: str) -> None:
    parity = trace_ranker("ranker", ranker(kind), tmp_path / "ranker.onnx", _WIDTH, _LONGEST)
    assert parity <= gates.GATES.max_ranker_parity


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_parity_detects_a_wrong_weight(tmp_path: Path, kind: str) -> None:
    """Negative control."""
    trace_ranker("ranker", ranker(kind), tmp_path / "ranker.onnx", _WIDTH, _LONGEST)
    other = ranker(kind)
    with torch.no_grad():
        next(p for name, p in other.named_parameters() if name == "out.weight")[0, 0] += 0.01
    assert measure_ranker_parity(other, tmp_path / "ranker.onnx", _WIDTH, _LONGEST) > gates.GATES.max_ranker_parity


class Careless(nn.Module):
    """A ranker that reads the padding, as a graph might that lost its mask."""

    def forward(self, vectors: torch.Tensor, kinds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The mean over the row, padding and all."""
        return (vectors + 0 * (kinds + mask).unsqueeze(-1)).mean(1, keepdim=True).expand_as(vectors)


RANKER = RankerRecord(
    name="ranker",
    file="ranker.onnx",
    megabytes=1.2,
    parity=1e-6,
    ms_batch1=0.3,
    users_per_s_core=900.0,
    gates=(gates.ranker_parity(1e-6),),
)


def test_ranker_that_depends_on_its_batch_is_refused_with_value_and_threshold(tmp_path: Path) -> None:
    """Negative control: alone it is right."""
    with pytest.raises(GateError, match=r"ranker: parity with PyTorch 0\.\d+, at most 0\.0001"):
        trace_ranker("ranker", Careless(), tmp_path / "ranker.onnx", _WIDTH, _LONGEST)


def test_random_users_cover_every_length_and_kind_of_event() -> None:
    users = random_users(48, 4, _LONGEST)
    assert {len(user.kinds) for user in users} == set(range(1, _LONGEST + 1))
    assert {int(kind) for user in users for kind in user.kinds} == {0, 1, 2}


def test_record_of_the_ranker_is_read_as_it_was_written(tmp_path: Path) -> None:
    save_ranker(RANKER, tmp_path)
    assert read_ranker(tmp_path) == RANKER


def test_ranker_of_a_teacher_is_traced_and_timed(tmp_path: Path) -> None:
    made = job(tmp_path)
    made.folder("finetune").mkdir()
    save_teacher(Teacher(16, _WIDTH, 24, _LONGEST), made.folder("finetune"))
    graph = _ranker(made, tmp_path / "ranker.onnx")
    assert graph.file == "ranker.onnx"
    assert graph.parity <= gates.GATES.max_ranker_parity
    assert graph.ms_batch1 > 0 < graph.users_per_s_core


def test_record_of_an_older_export_with_a_second_ranker_is_read() -> None:
    row = RANKER.model_dump() | {"name": "ranker.small", "file": "ranker.small.onnx"}
    result = RankerRecord.model_validate(
        row | {"retained": {"ids": [0.99, 0.95, 1.03]}, "shipped": True, "why": "fast"}
    )
    assert result.file == "ranker.small.onnx"


def adopt_by(made: StoppedJob, ranker: str | None, histories: list[NDArray[np.int64]]) -> None:
    """Turn the job's checkpoint into a recommender that is adopted, with `ranker` or with the mean."""
    checkpoint = made.folder("data") / "checkpoint"
    Head(HeadShape("bi-encoder", "mean")).save(checkpoint)
    if ranker:
        save_teacher(Teacher(16, 16, 24, 17, ranker=ranker), checkpoint)
    replace(dataset(), histories=histories).save(made.folder("data"))


def test_adopted_recommender_has_no_held_out_items(tmp_path: Path) -> None:
    made = job(tmp_path)
    often = [np.arange(24, dtype=np.int64)] * 12  # every item is taken often enough to be kept from training
    assert len(split_of(made, replace(dataset(), histories=often)).cold) == 1
    adopt_by(made, "gru", often)
    assert not len(split_of(made, replace(dataset(), histories=often)).cold)
