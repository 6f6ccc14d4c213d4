"""Training once more on all events, epochs that read a part of the histories, and residuals that move row by row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.config import ExportSettings
from export.data.dataset import Dataset
from export.data.phrases import Texts
from export.data.split import Split, everything, leave_one_out
from export.train import finetune
from export.train.refit import best_epoch, refit
from export.train.teacher import Teacher, load_teacher
from export.train.trainer import Trainer
from export.train.world import World
from tests.tiny import StoppedJob, job


@pytest.fixture
def tuned(tmp_path: Path) -> StoppedJob:
    """A job whose stage `finetune` is done."""
    one = job(tmp_path)
    one.folder("finetune").mkdir(parents=True)
    finetune.run(one, one.folder("finetune"))
    return one


def again(one: StoppedJob, split: Split, epochs: int = 2) -> Teacher:
    """Train the head of a tuned job once more."""
    texts = Texts.load(one.folder("data"))
    pooled = torch.from_numpy(np.load(one.folder("finetune") / "pooled.npy"))
    world, tested = World(split, texts, texts, None), load_teacher(one.folder("finetune"))
    return refit(one, world, tested, pooled[: world.items], pooled, epochs)


def test_refit_learns_from_events_that_the_test_kept_back(tuned: StoppedJob) -> None:
    data = Dataset.load(tuned.folder("data"))
    histories = [history.copy() for history in data.histories]
    histories[3][-1] = histories[5][-2] = 23  # only in what tests and validates
    for row in (*histories[:3], histories[4], *histories[6:]):
        row[row == 23] = 22
    changed = replace(data, histories=histories)
    tested = load_teacher(tuned.folder("finetune"))
    whole = again(tuned, everything(changed))
    assert torch.equal(whole.projection.weight, tested.projection.weight)
    assert sum(map(len, everything(changed).train)) == sum(len({*h.tolist()}) for h in histories)
    before = again(tuned, leave_one_out(changed, cold_share=0))
    assert 23 not in np.concatenate(leave_one_out(changed, cold_share=0).train)
    assert whole.residual[23].any()
    assert not torch.equal(whole.residual, before.residual)
    assert torch.equal(again(tuned, everything(changed)).residual, whole.residual)


def test_best_epoch_is_the_one_that_validated_best(tmp_path: Path) -> None:
    (tmp_path / "curve.json").write_text(
        '[{"epoch": 1, "validation_ndcg": 0.1}, {"epoch": 2, "validation_ndcg": 0.3}, '
        '{"epoch": 3, "validation_ndcg": 0.3}, {"epoch": 4, "validation_ndcg": 0.2}]'
    )
    assert best_epoch(tmp_path) == 3


def trainer(one: StoppedJob, *flags: str, negatives: int | None = None, most: int = 800) -> Trainer:
    """A trainer over random text vectors."""
    torch.manual_seed(0)
    settings = ExportSettings(_cli_parse_args=["--preset", "smoke", "--batch", "2", *flags])
    texts = Texts.load(one.folder("data"))
    split = leave_one_out(Dataset.load(one.folder("data")), cold_share=0)
    world = World(split, texts, texts, negatives, epoch_batches=most)
    return Trainer(settings, world, torch.randn(len(texts.all), 16), Teacher(16, 8, world.items, 17), 2, 7)


@pytest.mark.parametrize(("most", "steps"), [(800, 6), (4, 4)])
def test_epoch_reads_no_more_batches_than_it_may(tmp_path: Path, most: int, steps: int) -> None:
    one = trainer(job(tmp_path), most=most)
    one.epoch()
    assert one.step == steps


@pytest.mark.parametrize(("optimiser", "is_sparse"), [("adamw", True), ("sgd", False)])
def test_sampled_loss_moves_only_residuals_of_items_that_it_drew(
    tmp_path: Path, optimiser: str, *, is_sparse: bool
) -> None:
    one = trainer(job(tmp_path), "--optimiser", optimiser, negatives=1, most=1)
    one.epoch()
    moved = one.teacher.residual.abs().sum(1) > 0
    assert 0 < moved.sum() < len(moved)
    assert one.teacher.has_sparse_gradients == is_sparse
    whole = trainer(job(tmp_path), "--optimiser", optimiser, most=1)
    whole.epoch()
    assert not whole.teacher.has_sparse_gradients


def test_items_with_few_events_stay_near_their_texts() -> None:
    teacher, texts = Teacher(4, 2, 3, 5), torch.zeros(3, 2)
    torch.nn.init.ones_(teacher.residual)
    teacher.weight_residuals(torch.tensor([0, 3, 297]))
    wanted = torch.tensor([[0.0], [0.5], [0.99]]).expand(3, 2)
    torch.testing.assert_close(teacher.item_vectors(texts), wanted)
    torch.testing.assert_close(teacher.residuals(torch.tensor([2, 1])), wanted[[2, 1]])
    teacher.apply_weights()
    torch.testing.assert_close(teacher.residual, wanted)
    torch.testing.assert_close(teacher.item_vectors(texts), wanted)  # weighted once


def test_finished_training_has_weighted_residuals(tmp_path: Path) -> None:
    one = trainer(job(tmp_path))
    one.epoch()
    raw = one.teacher.residual.detach().clone()
    counts = np.bincount(
        np.concatenate(leave_one_out(Dataset.load(job(tmp_path).folder("data")), cold_share=0).train),
        minlength=len(raw),
    )
    events = torch.as_tensor(counts).float()
    one.finish()
    torch.testing.assert_close(one.teacher.residual.detach(), raw * (events / (events + 3))[:, None])
