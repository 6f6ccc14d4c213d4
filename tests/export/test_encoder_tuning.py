"""Fine-tuning BERT: each training option has an effect, and FGM perturbs the word embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.models.backbone import Backbone
from swiftrec.export.models.encoder import load_tokenizer
from swiftrec.export.models.teacher import Teacher, TextFeatures
from swiftrec.export.train.encoder_tuning import EncoderTuner
from swiftrec.export.train.fgm import worst_perturbation, zero_perturbation
from swiftrec.export.train.fit import copy_weights, fit
from swiftrec.export.train.optimisers import Schedule
from swiftrec.export.train.pretrained import split_of
from swiftrec.export.train.training_data import TrainingData
from swiftrec.export.train.validation import validate
from tests.export.tiny import job

_PLAIN = ("--backbone-layers", "2", "--passes", "4", "--texts-per-step", "16")


def tuner_of(folder: Path, *flags: str) -> EncoderTuner:
    """With a teacher of random items: BERT has something to learn."""
    tuner = job(folder, *_PLAIN, *flags)
    checkpoint, texts = tuner.folder("data") / "checkpoint", Texts.load(tuner.folder("data"))
    data = TrainingData(split_of(tuner, Dataset.load(tuner.folder("data"))), texts, texts, None)
    backbone = Backbone(checkpoint, load_tokenizer(checkpoint, 32).encode([*texts.all]), tuner.settings.tuned_layers)
    torch.manual_seed(3)
    teacher = Teacher(backbone.width, 8, data.items, 17).eval()
    torch.nn.init.normal_(teacher.residual, std=0.5)
    return EncoderTuner(tuner.settings, data, backbone, teacher, backbone.encode_all(), seed=1)


def train(tuner: EncoderTuner, passes: int = 1) -> list[float]:
    """The first passes of the tuning, without validation; mean loss of each."""
    tuner.validate = lambda: None  # type: ignore[method-assign, assignment, return-value]
    return fit(tuner, replace(tuner.schedule, epochs=passes), optimiser=tuner._settings.optimiser)


def weights(tuner: EncoderTuner) -> list[Tensor]:
    return list(copy_weights(tuner.module).values())


def are_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(map(torch.equal, first, second))


def distance(first: EncoderTuner, second: EncoderTuner) -> float:
    """The largest difference of two weights."""
    return max((a - b).abs().max().item() for a, b in zip(weights(first), weights(second), strict=True))


@pytest.mark.parametrize(
    "flags",
    [
        ("--optimiser", "sgd"),
        ("--accumulate", "2"),
        ("--backbone-weight-decay", "0.5"),
        ("--texts-per-step", "8"),
        ("--adversarial", "0.2"),
    ],
)
def test_option_changes_the_tuned_weights(tmp_path: Path, flags: tuple[str, ...]) -> None:
    plain, again, other = tuner_of(tmp_path), tuner_of(tmp_path), tuner_of(tmp_path, *flags)
    for tuner in (plain, again, other):
        train(tuner)
    assert are_equal(weights(plain), weights(again))
    assert not are_equal(weights(plain), weights(other))


def test_options_of_strength_0_change_nothing(tmp_path: Path) -> None:
    plain = tuner_of(tmp_path)
    none = tuner_of(tmp_path, "--adversarial", "0", "--accumulate", "1", "--optimiser", "adamw")
    assert train(plain) == train(none)
    assert are_equal(weights(plain), weights(none))


def test_accumulated_batches_update_the_weights_by_their_mean(tmp_path: Path) -> None:
    first, second = list(range(8)), list(range(8, 16))
    flags = ("--optimiser", "sgd", "--backbone-learning-rate", "1", "--warmup", "0")
    full_batch, half, parts = tuner_of(tmp_path, *flags), tuner_of(tmp_path, *flags), tuner_of(tmp_path, *flags)
    for tuner, batches in ((full_batch, [first + second]), (half, [first]), (parts, [first, second])):
        tuner.batches = lambda _epoch, batches=batches: iter(batches)  # type: ignore[method-assign, misc]
        tuner.validate = lambda: None  # type: ignore[method-assign, assignment, return-value]
        fit(tuner, Schedule(epochs=1, batches=len(batches), accumulate=len(batches), warmup=0), optimiser="sgd")
    assert distance(full_batch, parts) < 0.01 * distance(full_batch, half)


def test_validation_encodes_only_titles_in_its_histories(tmp_path: Path) -> None:
    """The item vectors are fixed, so the figures are those of all texts encoded again."""
    tuner = tuner_of(tmp_path, "--backbone-learning-rate", "0.01")
    validate_again = tuner.validate
    train(tuner)
    tuner.validate = validate_again  # type: ignore[method-assign]
    encoded: list[int] = []
    plain = tuner.module.forward

    def forward(texts: list[int], perturbation: Tensor | None = None) -> Tensor:
        encoded.extend(texts)
        return plain(texts, perturbation)

    tuner.module.forward = forward  # type: ignore[method-assign]
    figures = tuner.validate()
    split, items = tuner._data.split, tuner._data.items
    named = {int(n) for history in split.validation.histories for n in history}
    assert sorted(encoded) == [items + n for n in sorted(named)]
    assert len(encoded) < len(tuner.pooled) / 4
    tuner.finish()
    features = TextFeatures.of(tuner.pooled, tuner._data.augmented)
    again = validate(tuner._teacher, features, split, tuner._teacher.max_length - 1)
    assert (figures.ids, figures.text) == pytest.approx((again.ids, again.text), abs=0.01)


@pytest.mark.parametrize("limit", [2, 10_000])
def test_pass_reads_a_bounded_number_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr("swiftrec.export.train.encoder_tuning.MAX_PASS_BATCHES", limit)
    shown: list[tuple[str, int]] = []
    steps: list[None] = []

    @contextmanager
    def bars(label: str, total: int) -> Iterator[Callable[[], None]]:
        shown.append((label, total))
        yield lambda: steps.append(None)

    tuner = tuner_of(tmp_path)
    tuner._bars = bars
    all_batches = -(-len(tuner.module.lengths) // 16)
    train(tuner, passes=4)
    assert tuner.schedule.batches == min(limit, all_batches)
    assert len(steps) == 4 * min(limit, all_batches)
    assert shown == [("texts of a pass", min(limit, all_batches))] * 4


def test_targets_are_items_for_texts_and_vectors_for_phrases(tmp_path: Path) -> None:
    tuner = tuner_of(tmp_path)
    items, variants = tuner._data.items, len(tuner._data.augmented.variants)
    phrases = range(variants * items, len(tuner.pooled))
    assert len(phrases) > 2
    item = torch.nn.functional.normalize(tuner._items, dim=-1)
    for variant in range(variants):
        torch.testing.assert_close(tuner.goals([variant * items + 3, variant * items]), item[[3, 0]])
    torch.testing.assert_close(tuner.goals([*phrases]), tuner._teacher.text_vectors(tuner.pooled[[*phrases]]))


def loss(tuner: EncoderTuner, texts: list[int], perturbation: Tensor | None) -> Tensor:
    """Mean cosine distance of texts to their goals."""
    return 1 - (tuner._teacher.text_vectors(tuner.module(texts, perturbation)) * tuner.goals(texts)).sum(-1).mean()


def attacked(tuner: EncoderTuner, texts: list[int], strength: float) -> float:
    """The loss under the worst perturbation."""
    perturbation = zero_perturbation(tuner.module, texts)
    loss(tuner, texts, perturbation).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return loss(tuner, texts, worst_perturbation(tuner.module, texts, perturbation, strength)).item()


@pytest.mark.parametrize("backbone", ["1", "2", "all"])
def test_fgm_perturbation_raises_the_loss_when_layers_are_frozen(tmp_path: Path, backbone: str) -> None:
    tuner, texts = tuner_of(tmp_path, "--backbone-layers", backbone), list(range(20))
    perturbation = zero_perturbation(tuner.module, texts)
    loss(tuner, texts, perturbation).backward()  # type: ignore[no-untyped-call]
    embeddings, worst = tuner.module.word_embeddings(texts), worst_perturbation(tuner.module, texts, perturbation, 0.1)
    lengths = torch.tensor([tuner.module.lengths[n] for n in texts])
    behind = torch.arange(embeddings.shape[1]) >= lengths.unsqueeze(1)
    assert behind.any()
    assert not worst[behind].any()  # padding is not perturbed
    torch.testing.assert_close(worst.flatten(1).norm(dim=1), 0.1 * embeddings.flatten(1).norm(dim=1))
    with torch.no_grad():
        clean, higher, lower = (loss(tuner, texts, s).item() for s in (None, 0.1 * worst, -0.1 * worst))
    assert lower < clean < higher
    assert {n for n, p in tuner.module.named_parameters() if p.grad is not None} == {
        n for n, p in tuner.module.named_parameters() if p.requires_grad and "pooler" not in n
    }


def test_zero_perturbation_of_words_changes_no_vector(tmp_path: Path) -> None:
    backbone = tuner_of(tmp_path).module
    with torch.no_grad():
        torch.testing.assert_close(
            backbone([0, 5, 9]), backbone([0, 5, 9], zero_perturbation(backbone, [0, 5, 9])), atol=1e-6, rtol=1e-5
        )


def test_adversarial_training_reduces_the_loss_under_perturbation(tmp_path: Path) -> None:
    flags = ("--backbone-layers", "all", "--backbone-learning-rate", "0.003")
    plain, hardened = tuner_of(tmp_path, *flags), tuner_of(tmp_path, *flags, "--adversarial", "0.3")
    texts = list(range(24))
    for tuner in (plain, hardened):
        train(tuner, passes=4)
    figures = [[attacked(tuner, texts, strength) for strength in (0.0, 0.3)] for tuner in (plain, hardened)]
    assert figures[1][1] < 0.95 * figures[0][1]
    assert figures[1][1] - figures[1][0] < 0.6 * (figures[0][1] - figures[0][0])
