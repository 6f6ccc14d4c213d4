"""BERT after the rest: each option of training acts on it, and the adversary on the embeddings of its words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.models.backbone import MovingTrunk
from swiftrec.export.models.encoder import load_tokenizer
from swiftrec.export.models.teacher import Bank, Teacher
from swiftrec.export.train.encoder_tuning import Absorber
from swiftrec.export.train.fgm import no_shift, worst_shift
from swiftrec.export.train.memory_bank import MovingBank
from swiftrec.export.train.pretrained import parts_of
from swiftrec.export.train.training_data import World
from swiftrec.export.train.validation import validate
from tests.export.tiny import job

_PLAIN = ("--trunk", "2", "--passes", "4", "--texts-per-step", "16")


def absorber(folder: Path, *flags: str) -> Absorber:
    """With a teacher of random items: BERT has something to learn."""
    one = job(folder, *_PLAIN, *flags)
    checkpoint, texts = one.folder("data") / "checkpoint", Texts.load(one.folder("data"))
    world = World(parts_of(one, Dataset.load(one.folder("data"))), texts, texts, None)
    trunk = MovingTrunk(checkpoint, load_tokenizer(checkpoint, 32).encode([*texts.all]), one.settings.trunk_layers)
    torch.manual_seed(3)
    teacher = Teacher(trunk.width, 8, world.items, 17).eval()
    torch.nn.init.normal_(teacher.residual, std=0.5)
    return Absorber(one.settings, world, trunk, teacher, trunk.all(), seed=1)


def weights(one: Absorber) -> list[Tensor]:
    return [p.detach().clone() for p in one._trunk.parameters() if p.requires_grad]


def are_equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(map(torch.equal, some, others))


def apart(one: Absorber, other: Absorber) -> float:
    """The largest difference of two weights."""
    return max((a - b).abs().max().item() for a, b in zip(weights(one), weights(other), strict=True))


@pytest.mark.parametrize(
    "flags",
    [
        ("--optimiser", "sgd"),
        ("--accumulate", "2"),
        ("--trunk-weight-decay", "0.5"),
        ("--texts-per-step", "8"),
        ("--adversarial", "0.2"),
    ],
)
def test_option_changes_how_bert_moves_after_the_rest(tmp_path: Path, flags: tuple[str, ...]) -> None:
    plain, again, other = absorber(tmp_path), absorber(tmp_path), absorber(tmp_path, *flags)
    for one in (plain, again, other):
        one.epoch()
    assert are_equal(weights(plain), weights(again))
    assert not are_equal(weights(plain), weights(other))


def test_options_of_no_strength_change_nothing(tmp_path: Path) -> None:
    plain = absorber(tmp_path)
    none = absorber(tmp_path, "--adversarial", "0", "--ema", "0", "--accumulate", "1", "--optimiser", "adamw")
    assert plain.epoch() == none.epoch()
    assert are_equal(weights(plain), weights(none))


def test_accumulated_batches_move_bert_as_their_mean_does(tmp_path: Path) -> None:
    first, second = list(range(8)), list(range(8, 16))
    flags = ("--optimiser", "sgd", "--trunk-learning-rate", "1", "--warmup", "0")
    whole, half = absorber(tmp_path, *flags), absorber(tmp_path, *flags)
    parts = absorber(tmp_path, *flags, "--accumulate", "2")
    whole._descent.epoch([first + second], whole._learn)
    parts._descent.epoch([first, second], parts._learn)
    half._descent.epoch([first], half._learn)
    assert (whole.step, parts.step) == (1, 1)
    assert apart(whole, parts) < 0.01 * apart(whole, half)


def test_last_batches_of_a_pass_move_bert_where_they_are_too_few(tmp_path: Path) -> None:
    one, other = absorber(tmp_path), absorber(tmp_path, "--accumulate", "4")
    one.epoch()
    other.epoch()
    assert other.step == -(-one.step // 4)


def test_average_is_what_validates_and_is_kept_while_the_weights_learn_on(tmp_path: Path) -> None:
    one = absorber(tmp_path, "--ema", "0.9", "--trunk-learning-rate", "0.01")
    one.epoch()
    before = weights(one)
    one.validate()
    validated = one.pooled.clone()
    assert are_equal(weights(one), before)
    assert not are_equal(before, list(one.answer().values()))
    one.put(one.answer())
    one.finish()
    titles = one._validating
    torch.testing.assert_close(one.pooled[titles], validated[titles], atol=1e-6, rtol=1e-5)


def test_validation_encodes_only_the_titles_that_its_histories_name(tmp_path: Path) -> None:
    """What else it reads, the items' vectors, stands still: so the figures are those of all texts encoded again."""
    one = absorber(tmp_path, "--trunk-learning-rate", "0.01")
    one.epoch()
    encoded: list[int] = []
    plain = one._trunk.forward

    def forward(texts: list[int], shift: Tensor | None = None) -> Tensor:
        encoded.extend(texts)
        return plain(texts, shift)

    one._trunk.forward = forward  # type: ignore[method-assign]
    found = one.validate()
    split, items = one._world.split, one._world.items
    named = {int(n) for history in split.validation.histories for n in history}
    assert sorted(encoded) == [items + n for n in sorted(named)]
    assert len(encoded) < len(one.pooled) / 4
    one.finish()
    bank = Bank.cut(one.pooled, one._world.ways)
    again = validate(one._teacher, bank, split, one._teacher.max_length - 1)
    assert (found.ids, found.text) == pytest.approx((again.ids, again.text), abs=0.01)


@pytest.mark.parametrize("most", [2, 10_000])
def test_pass_reads_a_bounded_number_of_texts_and_its_rate_falls_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("swiftrec.export.train.encoder_tuning.MAX_PASS_BATCHES", most)
    shown: list[tuple[str, int]] = []
    steps: list[None] = []

    @contextmanager
    def bars(label: str, total: int) -> Iterator[Callable[[], None]]:
        shown.append((label, total))
        yield lambda: steps.append(None)

    one = absorber(tmp_path)
    one._bars = bars
    whole = -(-len(one._trunk.lengths) // 16)
    for _ in range(4):
        one.epoch()
    assert one.step == 4 * min(most, whole) == len(steps)
    assert shown == [("texts of a pass", min(most, whole))] * 4
    assert one._descent._rates[0].share(one.step) == pytest.approx(0, abs=0.05)


def test_texts_are_drawn_to_their_items_and_phrases_stay(tmp_path: Path) -> None:
    one = absorber(tmp_path)
    items, ways = one._world.items, len(one._world.ways.variants)
    phrases = range(ways * items, len(one.pooled))
    assert len(phrases) > 2
    item = torch.nn.functional.normalize(one._items, dim=-1)
    for way in range(ways):
        torch.testing.assert_close(one.goals_of([way * items + 3, way * items]), item[[3, 0]])
    torch.testing.assert_close(one.goals_of([*phrases]), one._teacher.text_vectors(one.pooled[[*phrases]]))


def loss(one: Absorber, texts: list[int], shift: Tensor | None) -> Tensor:
    """Mean cosine distance of texts to their goals."""
    return 1 - (one._teacher.text_vectors(one._trunk(texts, shift)) * one.goals_of(texts)).sum(-1).mean()


def attacked(one: Absorber, texts: list[int], strength: float) -> float:
    """The loss against the worst shift of the words."""
    shift = no_shift(one._trunk, texts)
    loss(one, texts, shift).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return loss(one, texts, worst_shift(one._trunk, texts, shift, strength)).item()


@pytest.mark.parametrize("trunk", ["1", "2", "all"])
def test_worst_shift_of_words_goes_uphill_through_layers_that_are_fixed(tmp_path: Path, trunk: str) -> None:
    one, texts = absorber(tmp_path, "--trunk", trunk), list(range(20))
    shift = no_shift(one._trunk, texts)
    loss(one, texts, shift).backward()  # type: ignore[no-untyped-call]
    words, worst = one._trunk.words(texts), worst_shift(one._trunk, texts, shift, 0.1)
    lengths = torch.tensor([one._trunk.lengths[n] for n in texts])
    behind = torch.arange(words.shape[1]) >= lengths.unsqueeze(1)
    assert behind.any()
    assert not worst[behind].any()  # what pads a text is none of its words
    torch.testing.assert_close(worst.flatten(1).norm(dim=1), 0.1 * words.flatten(1).norm(dim=1))
    with torch.no_grad():
        clean, uphill, downhill = (loss(one, texts, s).item() for s in (None, 0.1 * worst, -0.1 * worst))
    assert downhill < clean < uphill
    assert {n for n, p in one._trunk.named_parameters() if p.grad is not None} == {
        n for n, p in one._trunk.named_parameters() if p.requires_grad and "pooler" not in n
    }


def test_no_shift_of_words_changes_no_vector(tmp_path: Path) -> None:
    trunk = absorber(tmp_path)._trunk
    with torch.no_grad():
        torch.testing.assert_close(trunk([0, 5, 9]), trunk([0, 5, 9], no_shift(trunk, [0, 5, 9])), atol=1e-6, rtol=1e-5)


def test_training_against_the_adversary_makes_bert_bear_it_better(tmp_path: Path) -> None:
    flags = ("--trunk", "all", "--trunk-learning-rate", "0.003")
    plain, hardened = absorber(tmp_path, *flags), absorber(tmp_path, *flags, "--adversarial", "0.3")
    texts = list(range(24))
    for one in (plain, hardened):
        for _ in range(4):
            one.epoch()
    found = [[attacked(one, texts, strength) for strength in (0.0, 0.3)] for one in (plain, hardened)]
    assert found[1][1] < 0.95 * found[0][1]
    assert found[1][1] - found[1][0] < 0.6 * (found[0][1] - found[0][0])


def test_texts_that_move_along_are_changed_in_their_words(tmp_path: Path) -> None:
    trunk = absorber(tmp_path)._trunk
    bank = MovingBank(trunk, per_step=4)
    encoded = bank.encode(np.array([1, 3]), np.random.default_rng(0), to_words=True)
    before, upstream = bank.pooled.clone(), torch.randn_like(bank.pooled)
    encoded.backward(upstream)
    worse = bank.worsen(encoded, 0.01)
    assert torch.equal(bank.pooled, before)
    gain = ((worse.vectors - encoded.vectors) * upstream[encoded.texts]).sum(1)
    assert (gain > 0).all()
    with pytest.raises(ValueError, match="down to their words"):
        bank.worsen(bank.encode(np.array([1, 3]), np.random.default_rng(0)), 0.01)
