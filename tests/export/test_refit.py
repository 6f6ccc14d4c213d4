"""Training once more on all events, epochs that read a part of the histories, and residuals that move row by row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.split import Split, everything, leave_one_out
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.models.encoder import TextEncoder, load_bert, load_tokenizer, pad
from swiftrec.export.models.teacher import Teacher, load_teacher
from swiftrec.export.models.teacher_files import load_untuned
from swiftrec.export.train.cold_start import ColdMap
from swiftrec.export.train.fit import fit
from swiftrec.export.train.refit import _with_augmented, best_epoch, refit, train_on_all
from swiftrec.export.train.trainer import TeacherTrainer
from swiftrec.export.train.training_data import TrainingData, augmented
from tests.export.tiny import StoppedJob, dataset, job, run_stages


@pytest.fixture
def tuned(tmp_path: Path) -> StoppedJob:
    """A job whose stage `finetune` is done."""
    return finetuned(tmp_path / "tuned")


def again(tiny_job: StoppedJob, split: Split, epochs: int = 2) -> Teacher:
    """Train the head of a tuned job once more."""
    texts = Texts.load(tiny_job.folder("data"))
    pooled = torch.from_numpy(np.load(tiny_job.folder("finetune") / "pooled.npy"))
    data_of, tested = TrainingData(split, texts, texts, None), load_teacher(tiny_job.folder("finetune"))
    return refit(tiny_job, data_of, tested, pooled, epochs, seed=tiny_job.settings.seed)[0]


def test_refit_learns_from_held_out_events(tuned: StoppedJob) -> None:
    data = Dataset.load(tuned.folder("data"))
    histories = [history.copy() for history in data.histories]
    histories[3][-1] = histories[5][-2] = 23  # only in what tests and validates
    for row in (*histories[:3], histories[4], *histories[6:]):
        row[row == 23] = 22
    changed = replace(data, histories=histories)
    tested = load_teacher(tuned.folder("finetune"))
    on_all_events = again(tuned, everything(changed))
    assert torch.equal(on_all_events.projection.weight, tested.projection.weight)
    assert sum(map(len, everything(changed).train)) == sum(len({*h.tolist()}) for h in histories)
    before = again(tuned, leave_one_out(changed, cold_share=0))
    assert 23 not in np.concatenate(leave_one_out(changed, cold_share=0).train)
    assert on_all_events.residual[23].any()
    assert not torch.equal(on_all_events.residual, before.residual)
    assert torch.equal(again(tuned, everything(changed)).residual, on_all_events.residual)


def finetuned(folder: Path, *flags: str) -> StoppedJob:
    """A job with these flags whose stage `finetune` is done."""
    tiny_job = job(folder, *flags)
    run_stages(tiny_job, "finetune")
    return tiny_job


def test_refit_uses_users_with_at_least_two_events() -> None:
    data = dataset()
    short = [np.array(row, dtype=np.int64) for row in ([20, 21], [1, 2, 3], [5], [7, 7])]
    split = everything(replace(data, histories=[*data.histories, *short]))
    assert [row.tolist() for row in split.train[len(data.histories) :]] == [[20, 21], [1, 2, 3]]
    again = everything(replace(data, histories=[*data.histories, *short]), repeats="allow")
    assert again.train[-1].tolist() == [7, 7]


def test_refit_learns_items_that_occur_only_in_short_histories(tuned: StoppedJob) -> None:
    data = Dataset.load(tuned.folder("data"))
    histories = [np.where(history == 23, 22, history) for history in data.histories]
    short = [np.array([n, 23], dtype=np.int64) for n in range(6)]
    assert again(tuned, everything(replace(data, histories=[*histories, *short]))).residual[23].any()
    assert not again(tuned, everything(replace(data, histories=histories))).residual[23].any()


def test_refit_trains_for_the_best_number_of_epochs(tuned: StoppedJob) -> None:
    curve = tuned.folder("finetune") / "curve.json"
    curve.write_text('[{"epoch": 1, "validation_ndcg": 0.2}, {"epoch": 2, "validation_ndcg": 0.1}]')
    split = everything(Dataset.load(tuned.folder("data")))
    result = train_on_all(tuned, split)
    assert len(result.losses) == 1
    assert result.items.shape == result.teacher.residual.shape
    curve.write_text('[{"epoch": 1, "validation_ndcg": 0.1}, {"epoch": 2, "validation_ndcg": 0.2}]')
    assert len(train_on_all(tuned, split).losses) == 2


def test_refit_maps_cold_items_with_the_chosen_strength(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_job = job(tmp_path)
    data = Dataset.load(tiny_job.folder("data"))
    without = replace(data, histories=[np.where(history == 23, 22, history) for history in data.histories])
    without.save(tiny_job.folder("data"))
    folder = run_stages(tiny_job, "finetune")
    cold_map, split = ColdMap.load(folder), everything(without)
    assert cold_map is not None
    monkeypatch.setattr("swiftrec.export.train.cold_residuals.map_cold_items", None)
    before = train_on_all(tiny_job, split).items
    changed = {"strength": cold_map.strength, "boost": cold_map.boost + 1}
    (folder / "cold_map.json").write_text(json.dumps(changed))
    after = train_on_all(tiny_job, split).items
    assert (before != after).any(1).nonzero().flatten().tolist() == [23]


def test_vectors_of_the_untuned_bert_are_kept_only_when_it_was_tuned(tuned: StoppedJob, tmp_path: Path) -> None:
    pooled = torch.from_numpy(np.load(tuned.folder("finetune") / "pooled.npy"))
    assert not (tuned.folder("finetune") / "untuned.npy").exists()
    assert torch.equal(load_untuned(tuned.folder("finetune"), 24), pooled[:24])
    moved = finetuned(tmp_path / "moved", "--backbone-layers", "1").folder("finetune")
    own = torch.from_numpy(np.load(moved / "pooled.npy"))
    untuned = load_untuned(moved, 24)
    torch.testing.assert_close(untuned, pooled[:24])  # the same checkpoint, untouched
    assert not torch.allclose(untuned, own[:24])


def test_augmented_texts_are_encoded_by_the_tuned_bert_in_training_order(tmp_path: Path) -> None:
    tiny_job = finetuned(tmp_path, "--backbone-layers", "1", "--augment", "2")
    texts, folder = Texts.load(tiny_job.folder("data")), tiny_job.folder("finetune")
    ways = augmented(texts, 2, tiny_job.settings.seed, tiny_job.settings.synonyms)
    data_of = TrainingData(everything(Dataset.load(tiny_job.folder("data"))), texts, ways, None)
    own = torch.from_numpy(np.load(folder / "pooled.npy"))
    pooled, every = _with_augmented(tiny_job, data_of, own), ways.all
    assert len(pooled) == len(every) > len(own)
    torch.testing.assert_close(data_of.originals(pooled), own)
    encoder, tokenizer = (
        TextEncoder(load_bert(folder / "checkpoint"), 1).eval(),
        load_tokenizer(folder / "checkpoint", 128),
    )
    with torch.no_grad():
        for row in (0, len(texts.variants) * 24, len(texts.variants) * 24 + 30, len(every) - 1):
            torch.testing.assert_close(encoder.pool(*pad(tokenizer.encode([every[row]])))[0], pooled[row])


def test_refit_distils_several_teachers_too(tuned: StoppedJob, tmp_path: Path) -> None:
    split = everything(Dataset.load(tuned.folder("data")))
    several = finetuned(tmp_path / "several", "--teachers", "2")
    (several.folder("finetune") / "curve.json").write_bytes((tuned.folder("finetune") / "curve.json").read_bytes())
    assert not torch.allclose(train_on_all(several, split).items, train_on_all(tuned, split).items)


def test_best_epoch_has_the_best_validation_result(tmp_path: Path) -> None:
    (tmp_path / "curve.json").write_text(
        '[{"epoch": 1, "validation_ndcg": 0.1}, {"epoch": 2, "validation_ndcg": 0.3}, '
        '{"epoch": 3, "validation_ndcg": 0.3}, {"epoch": 4, "validation_ndcg": 0.2}]'
    )
    assert best_epoch(tmp_path) == 3


def trainer(tiny_job: StoppedJob, *flags: str, negatives: int | None = None, limit: int = 800) -> TeacherTrainer:
    """A trainer over random text vectors."""
    torch.manual_seed(0)
    settings = ExportSettings(_cli_parse_args=["--preset", "smoke", "--batch", "2", *flags])
    texts = Texts.load(tiny_job.folder("data"))
    split = leave_one_out(Dataset.load(tiny_job.folder("data")), cold_share=0)
    data_of = TrainingData(split, texts, texts, negatives, epoch_batches=limit)
    return TeacherTrainer(settings, data_of, torch.randn(len(texts.all), 16), Teacher(16, 8, data_of.items, 17), 7)


@pytest.mark.parametrize(("limit", "steps"), [(800, 6), (4, 4)])
def test_epoch_reads_at_most_the_maximum_of_batches(tmp_path: Path, limit: int, steps: int) -> None:
    tiny_job = trainer(job(tmp_path), limit=limit)
    assert len([*tiny_job.batches(0)]) == tiny_job.schedule(1).batches == steps


@pytest.mark.parametrize(("optimiser", "is_sparse"), [("adamw", True), ("sgd", False)])
def test_sampled_loss_updates_only_residuals_of_sampled_items(
    tmp_path: Path, optimiser: Literal["adamw", "sgd"], *, is_sparse: bool
) -> None:
    tiny_job = trainer(job(tmp_path), "--optimiser", optimiser, negatives=1, limit=1)
    fit(tiny_job, tiny_job.schedule(2), optimiser=optimiser)
    moved = tiny_job.module.residual.abs().sum(1) > 0
    assert 0 < moved.sum() < len(moved)
    assert tiny_job.module.has_sparse_gradients == is_sparse
    reference = trainer(job(tmp_path), "--optimiser", optimiser, limit=1)
    assert not reference.module.has_sparse_gradients


def test_items_with_few_events_stay_near_their_texts() -> None:
    teacher, texts = Teacher(4, 2, 3, 5), torch.zeros(3, 2)
    torch.nn.init.ones_(teacher.residual)
    teacher.weight_residuals(torch.tensor([0, 3, 297]))
    expected = torch.tensor([[0.0], [0.5], [0.99]]).expand(3, 2)
    torch.testing.assert_close(teacher.item_vectors(texts), expected)
    torch.testing.assert_close(teacher.residuals(torch.tensor([2, 1])), expected[[2, 1]])
    teacher.apply_weights()
    torch.testing.assert_close(teacher.residual, expected)
    torch.testing.assert_close(teacher.item_vectors(texts), expected)  # weighted once


def test_finished_training_has_weighted_residuals(tmp_path: Path) -> None:
    tiny_job = trainer(job(tmp_path))
    fit(tiny_job, tiny_job.schedule(1))
    raw = tiny_job.module.residual.detach().clone()
    counts = np.bincount(
        np.concatenate(leave_one_out(Dataset.load(job(tmp_path).folder("data")), cold_share=0).train),
        minlength=len(raw),
    )
    events = torch.as_tensor(counts).float()
    tiny_job.finish()
    torch.testing.assert_close(tiny_job.module.residual.detach(), raw * (events / (events + 3))[:, None])
