"""The losses compared with what they estimate, what they sample and fit into memory, and ensembles."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch.nn import functional

from swiftrec.export.config import PRESETS, ExportSettings
from swiftrec.export.data.queries import ATTRIBUTE, NEGATION, SIMILAR, Phrase
from swiftrec.export.data.text_variants import TextRows, TextVariant
from swiftrec.export.errors import ExportError
from swiftrec.export.models.teacher import Teacher, TextFeatures
from swiftrec.export.train.candidates import Candidates, NegativeSampler
from swiftrec.export.train.ensemble import TeacherEnsemble
from swiftrec.export.train.fgm import fgm_step
from swiftrec.export.train.losses import Batch, BatchLoss, sampled_softmax, softmax, squared_error
from swiftrec.export.train.samplers import (
    ALONE,
    BEHIND,
    LoneQueries,
    LoneQuerySampler,
    Queries,
    QueryKind,
    QuerySampler,
    Windows,
)
from swiftrec.export.train.training_data import negatives_of

_ITEMS = 40


@pytest.fixture
def space() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Users, items, targets, and an uneven popularity."""
    torch.manual_seed(0)
    return torch.randn(6, 8), torch.randn(_ITEMS, 8), torch.arange(6) * 3, (torch.arange(_ITEMS).float() + 1) ** 2


def test_sampled_softmax_approaches_the_full_one_with_many_negatives(
    space: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    users, items, targets, popularity = space
    candidates = NegativeSampler(popularity, 400_000).draw(targets)
    draws, position, scored = candidates.draws, candidates.position[targets], items[candidates.items]
    assert draws is not None
    full = softmax(users, items, targets).item()
    assert sampled_softmax(users, scored, position, draws).item() == pytest.approx(full, rel=0.01)
    uncorrected = sampled_softmax(users, scored, position, torch.ones_like(draws) * 400_000 / _ITEMS)
    assert uncorrected.item() != pytest.approx(full, rel=0.05)


def test_required_items_outside_the_sample_are_not_negatives() -> None:
    popularity = torch.zeros(_ITEMS)
    popularity[:4] = 1
    candidates = NegativeSampler(popularity, 16).draw(torch.tensor([[20, 30]]))
    draws, position = candidates.draws, candidates.position
    assert draws is not None
    assert position[20] >= 0
    assert draws[position[20]] == 0
    users, items = torch.ones(1, 2), torch.ones(len(candidates.items), 2)
    items[position[30]] = 1e3  # would dominate the sum
    loss = sampled_softmax(users, items, position[torch.tensor([20])], draws)
    assert loss.item() == pytest.approx(math.log(1 + draws.sum().item()), rel=1e-4)


def test_squared_error_is_zero_only_for_one_and_zeros() -> None:
    items, targets = torch.eye(3), torch.tensor([0, 2])
    assert squared_error(torch.eye(3)[[0, 2]], items, targets, None, torch.ones(2)).item() == 0
    assert squared_error(torch.eye(3)[[0, 1]], items, targets, None, torch.ones(2)).item() > 0.4


def test_squared_error_regresses_the_scores_of_targets_on_their_relevance() -> None:
    relevance = torch.tensor([1.0, 0.2])
    users, items, targets = torch.diag(relevance), torch.eye(2), torch.tensor([0, 1])
    assert squared_error(users, items, targets, None, relevance).item() == 0
    assert squared_error(users, items, targets, None, torch.ones(2)).item() == pytest.approx(0.8**2 / 2)


def test_queries_without_a_history_come_with_matching_items_by_popularity() -> None:
    popularity, relevance = np.array([1.0, 99.0, 0.0, 5.0]), np.array([0.2, 0.4, 0, 1], np.float32)
    phrases = [Phrase("a", [0, 1, 2]), Phrase("nothing", [2]), Phrase("b", [3]), Phrase("like b", [3], SIMILAR)]
    queries = LoneQuerySampler(phrases, popularity, relevance, TextRows(len(popularity), 4)).draw(
        2_000, np.random.default_rng(0)
    )
    phrase = queries.text - 4 * len(popularity)
    of_a, of_b = queries.item[phrase == 0], queries.item[phrase == 2]
    assert {*of_a.tolist()} == {0, 1}
    assert {*of_b.tolist()} == {3}
    assert {*phrase[phrase >= 0].tolist()} == {0, 2}
    assert queries.relevance.tolist() == relevance[queries.item].tolist()
    assert (of_a == 1).float().mean() > 0.9
    item_texts = queries.text[phrase < 0]
    assert (item_texts % len(popularity)).tolist() == queries.item[phrase < 0].tolist()
    assert {*(item_texts // len(popularity)).tolist()} == {
        TextVariant.TITLE,
        TextVariant.TITLE_WORDS,
        TextVariant.DROPPED,
    }
    assert 2 not in queries.item  # without interactions
    alone = LoneQuerySampler([], popularity, relevance, TextRows(len(popularity), 4)).draw(9, np.random.default_rng(0))
    assert (alone.text < 4 * len(popularity)).all()


def test_kinds_of_queries_have_the_shares_of_the_table() -> None:
    assert [sum(ALONE.values()), sum(BEHIND.values())] == pytest.approx([1, 1])
    sampler = LoneQuerySampler([Phrase("a", [0])], np.ones(2), np.ones(2, np.float32), TextRows(2, 6))
    variants = (sampler.draw(4_000, np.random.default_rng(1)).text // 2).tolist()
    rows: dict[QueryKind, list[int]] = {
        TextVariant.TITLE: [1],
        TextVariant.TITLE_WORDS: [2],
        TextVariant.DROPPED: [3, 4, 5],
        ATTRIBUTE: [6],
    }
    total = sum(ALONE[kind] for kind in rows)
    for kind, numbers in rows.items():
        share = sum(variant in numbers for variant in variants) / len(variants)
        assert share == pytest.approx(ALONE[kind] / total, abs=0.03)
    assert {3, 4, 5} <= {*variants}  # also the copies of --augment


def test_nearest_items_of_a_query_are_those_of_its_vector() -> None:
    torch.manual_seed(2)
    teacher, pooled = Teacher(4, 8, 6, 5), torch.randn(2, 6, 4)
    features = TextFeatures(pooled, pooled[0, :1])
    candidates, empty = Candidates.all(torch.ones(6, dtype=torch.bool)), torch.zeros(1, 1, dtype=torch.int64)
    queries = LoneQueries(torch.tensor([3, 6 + 4, 12]), torch.tensor([3, 4, 0]), torch.ones(3))
    batch = Batch(
        Windows(empty, empty, empty, torch.ones(1, 1)),
        Queries(empty, empty[0], empty[0], empty[0], torch.ones(1)),
        queries,
        candidates,
        torch.zeros(6, dtype=torch.int64),
    )
    step = BatchLoss(teacher, features, batch, "softmax")
    similarities = step._similarities(queries.text)
    torch.testing.assert_close(similarities.sum(1), torch.ones(3))
    cosines = functional.cosine_similarity(pooled[1, 4], pooled[0], dim=-1)
    assert similarities[1].argmax() == cosines.argmax()
    assert similarities[[0, 2]].argmax(1).tolist() == [3, 0]
    assert torch.isfinite(step.total())


def test_ensemble_predicts_the_mean_of_the_probabilities() -> None:
    torch.manual_seed(1)
    pairs = [(Teacher(4, 8, _ITEMS, 5), torch.randn(_ITEMS, 8)) for _ in range(2)]
    items = torch.tensor([[1, 2, 3], [4, 5, 0]])
    batch = Windows(items, torch.tensor([[2, 3, 4], [5, 6, -100]]), (items > 0).long(), torch.ones(2, 3))
    candidates = Candidates.all(torch.ones(_ITEMS, dtype=torch.bool))
    mean = TeacherEnsemble(pairs).probabilities(batch, candidates)
    kinds = torch.zeros_like(items)
    alone = [
        functional.softmax(teacher.ranker(vectors[items], kinds, batch.mask)[batch.targets >= 0] @ vectors.T, dim=-1)
        for teacher, vectors in pairs
    ]
    torch.testing.assert_close(mean, (alone[0] + alone[1]) / 2)
    assert mean.shape == (5, _ITEMS)
    assert not any(p.requires_grad for teacher, _ in pairs for p in teacher.parameters())


def test_items_without_interactions_are_no_candidates() -> None:
    candidates = Candidates.all(torch.tensor([True, False, True, True]))
    assert candidates.items.tolist() == [0, 2, 3]
    assert candidates.position.tolist() == [0, -1, 1, 2]
    drawn = NegativeSampler(torch.tensor([3.0, 0.0, 1.0, 1.0]), 500).draw(torch.tensor([3]))
    assert drawn.items.tolist() == [0, 2, 3]


def test_fgm_step_raises_the_loss_and_has_the_length_of_its_strength() -> None:
    torch.manual_seed(0)
    rows, gradient = torch.randn(5, 8), torch.randn(5, 8)
    gradient[2] = 0
    worse = rows + fgm_step(rows, gradient, 0.1)
    assert ((worse - rows) * gradient).sum(1)[[0, 1, 3, 4]].min() > 0
    torch.testing.assert_close((worse - rows).norm(dim=1)[0], 0.1 * rows.norm(dim=1)[0])
    assert torch.equal(worse[2], rows[2])


@pytest.mark.parametrize(
    ("loss", "items", "drawn"), [("auto", 9, None), ("auto", 11, 512), ("softmax", 11, None), ("mse", 9, 512)]
)
def test_loss_reads_a_sample_of_a_large_catalogue(
    loss: str, items: int, drawn: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftrec.export.train.training_data.FULL_ITEMS", 10)
    settings = ExportSettings(_cli_parse_args=["--loss", loss])
    assert negatives_of(settings, items) == drawn


@pytest.mark.parametrize(
    ("flags", "items", "words"),
    [
        (["--batch", "1024"], 20_000, "--loss auto over 20,000 items with --batch 1024 needs 16 GB a step"),
        (["--batch", "1024", "--loss", "sampled"], 20_000, "use --batch 256 --accumulate 4$"),
        (["--batch", "1024", "--loss", "sampled"], 1_000_000, "--loss sampled over 1,000,000 items"),
        (["--batch", "512", "--loss", "mse", "--accumulate", "2"], 20_000, "use --batch 128 --accumulate 8$"),
        (["--loss", "softmax"], 1_000_000, "needs 12 GB a step.*use --batch 8 --accumulate 2, or --loss auto$"),
    ],
)
def test_step_beyond_memory_is_refused_with_a_batch_that_fits(flags: list[str], items: int, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        negatives_of(ExportSettings(_cli_parse_args=flags), items)


@pytest.mark.parametrize("loss", ["auto", "softmax", "sampled", "mse"])
@pytest.mark.parametrize("items", [1_000, 20_000, 300_000])
def test_advised_batch_fits(loss: str, items: int) -> None:
    flags = ["--loss", loss, "--batch", "100000", "--teachers", "3"]
    with pytest.raises(ExportError) as caught:
        negatives_of(ExportSettings(_cli_parse_args=flags), items)
    result = re.search(r"use --batch (\d+) --accumulate (\d+)", str(caught.value))
    assert result
    batch, accumulate = map(int, result.groups())
    assert batch * accumulate >= 100_000
    flags[3] = str(batch)
    negatives_of(ExportSettings(_cli_parse_args=flags), items)


def test_loss_auto_samples_negatives_when_all_items_do_not_fit() -> None:
    fits, does_not = (["--batch", batch, "--teachers", "3"] for batch in ("32", "220"))
    assert negatives_of(ExportSettings(_cli_parse_args=fits), 20_000) is None
    assert negatives_of(ExportSettings(_cli_parse_args=does_not), 20_000) == 512


def test_preset_scores_all_items_of_a_catalogue_up_to_20_000() -> None:
    for preset in PRESETS:
        assert negatives_of(ExportSettings(preset=preset, _cli_parse_args=[]), 20_000) is None


def test_queries_match_their_target() -> None:
    phrases = [
        Phrase("a", [0, 2]),
        Phrase("b", np.array([2], np.int32)),
        Phrase("c", [3], NEGATION),
        Phrase("like 2", [2], SIMILAR),
    ]
    drawn = QuerySampler([np.array([1, 0, 2, 3])], phrases, TextRows(5, 4)).draw(2_000, np.random.default_rng(0))
    phrase, way = (drawn.text - 4 * 5).tolist(), (drawn.text // 5).tolist()
    targets = drawn.target.tolist()
    assert {(w, p) for w, p in zip(targets, phrase, strict=True) if p >= 0} == {(0, 0), (2, 0), (2, 1), (3, 2), (3, 3)}
    assert {*way} == {TextVariant.TITLE_WORDS, TextVariant.DROPPED, 4}
    assert all(t % 5 == w for t, w, p in zip(drawn.text.tolist(), targets, phrase, strict=True) if p < 0)
    lengths = [n for n, p in zip(drawn.lengths.tolist(), phrase, strict=True) if p == 3]
    assert {*lengths} == {0}  # "like 2" asks for what came after 2, and is all that is known
