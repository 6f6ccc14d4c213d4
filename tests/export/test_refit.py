"""Training once more on all events, epochs that read a part of the histories, and residuals that move row by row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.split import Split, everything, leave_one_out
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.models.encoder import TextEncoder, load_tokenizer, load_trunk, pad
from swiftrec.export.models.teacher import Teacher, load_teacher
from swiftrec.export.stages import finetune
from swiftrec.export.train.cold_start import Choice
from swiftrec.export.train.refit import _with_noisy, best_epoch, refit, train_on_all
from swiftrec.export.train.trainer import Trainer
from swiftrec.export.train.training_data import World, with_noise
from tests.export.tiny import StoppedJob, dataset, job


@pytest.fixture
def tuned(tmp_path: Path) -> StoppedJob:
    """A job whose stage `finetune` is done."""
    return finetuned(tmp_path / "tuned")


def again(one: StoppedJob, split: Split, epochs: int = 2) -> Teacher:
    """Train the head of a tuned job once more."""
    texts = Texts.load(one.folder("data"))
    pooled = torch.from_numpy(np.load(one.folder("finetune") / "pooled.npy"))
    world, tested = World(split, texts, texts, None), load_teacher(one.folder("finetune"))
    return refit(one, world, tested, pooled, epochs)[0].teacher


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


def finetuned(folder: Path, *flags: str) -> StoppedJob:
    """A job with these flags whose stage `finetune` is done."""
    one = job(folder, *flags)
    one.folder("finetune").mkdir(parents=True)
    finetune.run(one, one.folder("finetune"))
    return one


def test_users_with_two_or_three_events_train_in_it_and_those_with_one_do_not() -> None:
    whole = dataset()
    short = [np.array(row, dtype=np.int64) for row in ([20, 21], [1, 2, 3], [5], [7, 7])]
    split = everything(replace(whole, histories=[*whole.histories, *short]))
    assert [row.tolist() for row in split.train[len(whole.histories) :]] == [[20, 21], [1, 2, 3]]
    again = everything(replace(whole, histories=[*whole.histories, *short]), repeats="allow")
    assert again.train[-1].tolist() == [7, 7]


def test_item_of_short_histories_alone_is_learned_by_the_model_of_all_events(tuned: StoppedJob) -> None:
    data = Dataset.load(tuned.folder("data"))
    histories = [np.where(history == 23, 22, history) for history in data.histories]
    short = [np.array([n, 23], dtype=np.int64) for n in range(6)]
    assert again(tuned, everything(replace(data, histories=[*histories, *short]))).residual[23].any()
    assert not again(tuned, everything(replace(data, histories=histories))).residual[23].any()


def test_training_again_takes_the_epochs_that_validation_chose(tuned: StoppedJob) -> None:
    curve = tuned.folder("finetune") / "curve.json"
    curve.write_text('[{"epoch": 1, "validation_ndcg": 0.2}, {"epoch": 2, "validation_ndcg": 0.1}]')
    split = everything(Dataset.load(tuned.folder("data")))
    found = train_on_all(tuned, split)
    assert len(found.losses) == 1
    assert found.items.shape == found.teacher.residual.shape
    curve.write_text('[{"epoch": 1, "validation_ndcg": 0.1}, {"epoch": 2, "validation_ndcg": 0.2}]')
    assert len(train_on_all(tuned, split).losses) == 2


def test_new_items_are_placed_by_what_the_first_training_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = job(tmp_path)
    data = Dataset.load(one.folder("data"))
    without = replace(data, histories=[np.where(history == 23, 22, history) for history in data.histories])
    without.save(one.folder("data"))
    folder = one.folder("finetune")
    folder.mkdir()
    finetune.run(one, folder)
    choice, split = Choice.load(folder), everything(without)
    assert choice is not None
    monkeypatch.setattr(finetune, "place_newcomers", None)  # by what users took next, which is trained on now
    before = train_on_all(one, split).items
    (folder / "newcomers.json").write_text(json.dumps({"strength": choice.strength, "rise": choice.rise + 1}))
    after = train_on_all(one, split).items
    assert (before != after).any(1).nonzero().flatten().tolist() == [23]


def test_texts_before_bert_was_tuned_are_kept_only_if_it_was(tuned: StoppedJob, tmp_path: Path) -> None:
    pooled = torch.from_numpy(np.load(tuned.folder("finetune") / "pooled.npy"))
    assert not (tuned.folder("finetune") / "plain.npy").exists()
    assert torch.equal(finetune.load_plain(tuned.folder("finetune"), pooled, 24), pooled[:24])
    moved = finetuned(tmp_path / "moved", "--trunk", "1").folder("finetune")
    own = torch.from_numpy(np.load(moved / "pooled.npy"))
    plain = finetune.load_plain(moved, own, 24)
    torch.testing.assert_close(plain, pooled[:24])  # the same checkpoint, untouched
    assert not torch.allclose(plain, own[:24])


def test_augmented_texts_are_encoded_by_the_tuned_bert_in_the_order_that_training_reads(tmp_path: Path) -> None:
    one = finetuned(tmp_path, "--trunk", "1", "--augment", "2")
    texts, folder = Texts.load(one.folder("data")), one.folder("finetune")
    ways = with_noise(texts, 2, one.settings.seed, one.settings.synonyms)
    world = World(everything(Dataset.load(one.folder("data"))), texts, ways, None)
    own = torch.from_numpy(np.load(folder / "pooled.npy"))
    pooled, every = _with_noisy(one, world, own), ways.all
    assert len(pooled) == len(every) > len(own)
    torch.testing.assert_close(world.originals(pooled), own)
    encoder, tokenizer = (
        TextEncoder(load_trunk(folder / "checkpoint"), 1).eval(),
        load_tokenizer(folder / "checkpoint", 128),
    )
    with torch.no_grad():
        for row in (0, len(texts.variants) * 24, len(texts.variants) * 24 + 30, len(every) - 1):
            torch.testing.assert_close(encoder.pool(*pad(tokenizer.encode([every[row]])))[0], pooled[row])


def test_several_teachers_guide_the_model_of_all_events_too(tuned: StoppedJob, tmp_path: Path) -> None:
    split = everything(Dataset.load(tuned.folder("data")))
    several = finetuned(tmp_path / "several", "--teachers", "2")
    (several.folder("finetune") / "curve.json").write_bytes((tuned.folder("finetune") / "curve.json").read_bytes())
    assert not torch.allclose(train_on_all(several, split).items, train_on_all(tuned, split).items)


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
