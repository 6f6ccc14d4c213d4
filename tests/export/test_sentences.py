"""The sentence space: what it keeps of the checkpoint's vectors, and that every stage keeps both halves."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch.nn import functional

from swiftrec.export.compress.throughput import TorchTeacher
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.evaluate.backends import PooledTexts, plain_encode
from swiftrec.export.models.encoder import TextEncoder, load_bert, load_tokenizer, pad
from swiftrec.export.models.sentence_space import (
    MAX_SENTENCE_DIMENSIONS,
    fit_sentence_map,
    load_sentence_map,
    load_sentences,
    sample_rows,
    save_sentences,
    sentence_vectors,
)
from swiftrec.export.models.teacher import load_teacher
from swiftrec.export.stages.evaluation_context import load_context
from swiftrec.server.arrays import Vectors
from tests.export.tiny import StoppedJob, job, run_stages, write_checkpoint

_HIDDEN = 16  # of the tiny checkpoint


def tuned(artifacts: Path, *flags: str) -> StoppedJob:
    """A job whose stage `finetune` has run."""
    finished = job(artifacts, *flags)
    run_stages(finished, "finetune")
    return finished


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A tiny teacher whose BERT was fine-tuned, and the parts that are scored beside its ranker."""
    finished = tuned(tmp_path_factory.mktemp("moved"), "--backbone-layers", "all")
    run_stages(finished, "blend")
    return finished


def pooled_by(checkpoint: Path, texts: list[str]) -> torch.Tensor:
    """The checkpoint's pooled vectors, text by text."""
    encoder = TextEncoder(load_bert(checkpoint), 1).eval()
    with torch.inference_mode():
        return torch.cat([encoder.pool(*pad([row])) for row in load_tokenizer(checkpoint, 128).encode(texts)])


@pytest.mark.parametrize(("hidden", "expected"), [(24, 24), (200, MAX_SENTENCE_DIMENSIONS)])
def test_map_has_orthonormal_columns_and_at_most_128(hidden: int, expected: int) -> None:
    pooled = torch.randn(400, hidden, generator=torch.Generator().manual_seed(0))
    actual = fit_sentence_map(pooled, 7)
    assert actual.shape == (hidden, expected)
    torch.testing.assert_close(actual.T @ actual, torch.eye(expected), atol=1e-5, rtol=0)
    assert torch.equal(actual, fit_sentence_map(pooled, 7))


def test_map_preserves_cosines_when_the_rank_is_low() -> None:
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(300, 100, generator=generator) @ torch.randn(100, 256, generator=generator)
    unit, reduced = functional.normalize(pooled, dim=-1), sentence_vectors(pooled, fit_sentence_map(pooled, 0))
    torch.testing.assert_close(reduced @ reduced.T, unit @ unit.T, atol=1e-4, rtol=0)
    random = torch.linalg.qr(torch.randn(256, MAX_SENTENCE_DIMENSIONS, generator=generator)).Q
    other = sentence_vectors(pooled, random)
    assert (other @ other.T - unit @ unit.T).abs().max() > 0.1  # control


def test_map_is_fitted_on_a_sample_when_texts_are_many() -> None:
    assert sample_rows(9, 0).tolist() == list(range(9))
    drawn = sample_rows(200_000, 0)
    assert len(drawn) == 50_000
    assert (np.diff(drawn) > 0).all()
    assert (drawn != sample_rows(200_000, 1)).any()


def test_sentence_vectors_are_unit_vectors_and_round_trip(tmp_path: Path) -> None:
    pooled = torch.randn(40, _HIDDEN, generator=torch.Generator().manual_seed(0))
    save_sentences(pooled, tmp_path, 0)
    actual, sentence_map = load_sentences(tmp_path, 40), load_sentence_map(tmp_path)
    assert sentence_map is not None
    assert actual.dtype == np.float32
    assert actual.shape == (40, _HIDDEN)
    np.testing.assert_allclose(actual, sentence_vectors(pooled, sentence_map).numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, atol=1e-5)


def test_stage_without_sentences_has_none(tmp_path: Path) -> None:
    assert load_sentence_map(tmp_path) is None
    assert load_sentences(tmp_path, 5).shape == (5, 0)


@pytest.mark.parametrize("flags", [("--backbone-layers", "2"), ("--teachers", "2", "--augment", "1")])
def test_finetune_writes_the_untouched_checkpoints_vectors(tmp_path: Path, flags: tuple[str, ...]) -> None:
    check_sentences(tuned(tmp_path, *flags))


def test_finetune_writes_untuned_sentence_vectors_when_all_of_bert_is_tuned(moved: StoppedJob) -> None:
    check_sentences(moved)
    every, folder = Texts.load(moved.folder("data")).all, moved.folder("finetune")
    after = sentence_vectors(pooled_by(folder / "checkpoint", [*every]), cast(torch.Tensor, load_sentence_map(folder)))
    assert np.abs(load_sentences(folder, len(every)) - after.numpy()).max() > 1e-2  # control: BERT has changed


def check_sentences(finished: StoppedJob) -> None:
    every, folder = [*Texts.load(finished.folder("data")).all], finished.folder("finetune")
    sentence_map = load_sentence_map(folder)
    assert sentence_map is not None
    expected = sentence_vectors(pooled_by(finished.folder("data") / "checkpoint", every), sentence_map)
    np.testing.assert_allclose(load_sentences(folder, len(every)), expected.numpy(), atol=1e-4)


def test_teacher_gives_both_halves_of_any_text(moved: StoppedJob) -> None:
    context, folder = load_context(moved), moved.folder("finetune")
    texts = ["river 3", "an unknown text", "river 3"]
    actual = context.teacher.encode(texts)
    teacher, sentence_map = load_teacher(folder), load_sentence_map(folder)
    assert sentence_map is not None
    size = context.teacher.dimensions
    assert actual.shape == (3, size + _HIDDEN)
    with torch.inference_mode():
        ranker = teacher.text_vectors(pooled_by(folder / "checkpoint", texts)).numpy()
        sentences = sentence_vectors(pooled_by(moved.folder("data") / "checkpoint", texts), sentence_map).numpy()
    np.testing.assert_allclose(context.teacher.ranker_half(actual), ranker, atol=1e-4)
    np.testing.assert_allclose(actual[:, size:], sentences, atol=1e-4)
    assert context.teacher.retrieval is not None
    items = context.teacher.retrieval.sentences
    assert items.dtype == np.float32
    assert items.shape == (len(context.dataset.items), _HIDDEN)
    np.testing.assert_allclose(
        items, context.teacher.encode([i.text for i in context.dataset.items])[:, size:], atol=1e-4
    )


def test_known_titles_of_the_teacher_equal_encoded_ones(moved: StoppedJob) -> None:
    context, positions = load_context(moved), np.array([4, 0, 9])
    assert context.teacher.titles is not None
    encoded = context.teacher.encode([context.tasks.titles[n] for n in positions])
    np.testing.assert_allclose(context.teacher.titles(positions), encoded, atol=1e-4)


def test_one_pass_teacher_gives_the_same_ranker_half_and_unit_sentences(moved: StoppedJob) -> None:
    rows = load_tokenizer(moved.folder("data") / "checkpoint", 128).encode(["river 3", "winter garden"])
    actual = np.array(TorchTeacher(moved).run(rows))
    expected = load_context(moved).teacher.encode(["river 3", "winter garden"])
    size = expected.shape[1] - _HIDDEN
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual[:, :size], expected[:, :size], atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(actual[:, size:], axis=1), 1, atol=1e-5)


def test_pooled_texts_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "checkpoint")
    monkeypatch.setattr("swiftrec.export.evaluate.backends._KEPT_TEXTS", 3)
    encoded: list[str] = []

    class Counted(PooledTexts):
        def _encode(self, texts: list[str]) -> Vectors:
            encoded.extend(texts)
            return super()._encode(texts)

    pooled = Counted(tmp_path / "checkpoint", 128)
    exact = pooled_by(tmp_path / "checkpoint", ["night", "river", "night"])
    torch.testing.assert_close(pooled(["night", "river", "night"]), exact, atol=1e-5, rtol=0)
    plain_encode(pooled)(["river", "garden"])
    assert encoded == ["night", "river", "garden"]
    pooled(["night", "winter"])  # exceeds the limit: the earlier ones are dropped
    assert encoded == ["night", "river", "garden", "night", "winter"]
