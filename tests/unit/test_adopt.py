"""A trained recommender as the teacher: its ranking is kept to the item, its ranker is its own or an average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.config import ExportSettings
from export.data.checkpoint import locate, write_bert
from export.data.dataset import Dataset, Item
from export.data.phrases import Texts, unseen, write_texts
from export.errors import CheckpointError
from export.evaluate.agreement import agreement
from export.stage import Job
from export.train.adopt import adopt
from export.train.encoder import load_tokenizer, pad
from export.train.mean import MeanRanker
from export.train.ranker import LastUser
from export.train.teacher import Teacher, load_teacher, save_teacher
from server.models.ranker import Kind
from tests.checkpoints import HIDDEN, WORDS, save_model, save_sentence_transformer

_ITEMS = [Item(f"i{n}", f"{word} lamp", f"{word} lamp, soft", {"kind": [word]}) for n, word in enumerate(WORDS)]


def adopted(folder: Path, *, preset: str = "smoke") -> tuple[Teacher, torch.Tensor, list[str], Path]:
    """Adopt `folder/original` for twelve items: the teacher, its text vectors of the items, the texts, the stage."""
    job = Job(ExportSettings(artifacts=folder, name="tiny", _cli_parse_args=["--preset", preset]))
    data, out = job.folder("data"), folder / "out"
    data.mkdir(parents=True)
    out.mkdir()
    dataset = Dataset(_ITEMS, [], ["lamp"], [], "made up", "none")
    dataset.save(data)
    texts = write_texts(dataset, 0)
    texts.save(data)
    found = locate(str(folder / "original"), folder, folder)
    write_bert(found, data / "checkpoint", adopt=True, max_tokens=128)
    adopt(job, out)
    teacher = load_teacher(out)
    pooled = torch.from_numpy(np.load(out / "pooled.npy"))
    assert len(pooled) == len(texts.all)
    return teacher, teacher.text_vectors(pooled[: len(_ITEMS)]), [*texts.variants[0]], out


def logits(model: Any, folder: Path, texts: list[str]) -> torch.Tensor:  # noqa: ANN401
    ids, mask = pad(load_tokenizer(folder, 128).encode(texts))
    found: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return found


def test_classifier_as_teacher_ranks_by_its_logits(tmp_path: Path) -> None:
    labels = {row: f"i{len(WORDS) - row}" for row in range(len(WORDS) + 1)}  # one label is no item
    model = save_model("distilbert", tmp_path / "original", "ForSequenceClassification", id2label=labels)
    teacher, vectors, texts, out = adopted(tmp_path)
    with torch.inference_mode():
        scores = vectors @ (vectors + teacher.residual).T
        wanted = logits(model, tmp_path / "original", texts)[:, [len(WORDS) - n for n in range(len(WORDS))]]
    assert (scores.argsort(descending=True) == wanted.argsort(descending=True)).all()
    assert (out / "checkpoint" / "model.safetensors").exists()


def test_own_teacher_keeps_its_projection_and_ranker(tmp_path: Path) -> None:
    save_model("bert", tmp_path / "original" / "checkpoint")
    own = Teacher(HIDDEN, 8, 3, 17, ranker="gru", dropout=0.0)
    save_teacher(own, tmp_path / "original")
    teacher, vectors, _, _ = adopted(tmp_path)
    assert vectors.shape == (len(_ITEMS), 8)
    assert not teacher.residual.any()
    for name, weight in own.ranker.state_dict().items():
        assert torch.equal(weight, teacher.ranker.state_dict()[name])


def test_own_teacher_of_shorter_histories_is_refused(tmp_path: Path) -> None:
    save_model("bert", tmp_path / "original" / "checkpoint")
    save_teacher(Teacher(HIDDEN, 8, 3, 17), tmp_path / "original")
    with pytest.raises(CheckpointError, match="takes 16 events, 64 are needed: use the preset"):
        adopted(tmp_path, preset="quick")


def test_dot_product_keeps_the_length_of_item_vectors(tmp_path: Path) -> None:
    save_sentence_transformer("bert", tmp_path / "original", dense=5, unit=False)
    (tmp_path / "original" / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "dot"}')
    teacher, vectors, _, out = adopted(tmp_path)
    pooled = torch.from_numpy(np.load(out / "pooled.npy"))[: len(_ITEMS)]
    assert torch.allclose(vectors + teacher.residual, pooled, atol=1e-6)
    assert not torch.allclose(vectors, pooled, atol=1e-2)


def test_average_is_of_the_events_so_far_and_a_query_stands_alone() -> None:
    ranker = LastUser(MeanRanker(2, 9))
    vectors = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [9.0, 9.0]], [[1.0, 0.0], [1.0, 0.0], [0.0, 3.0]]])
    kinds = torch.tensor([[Kind.ITEM, Kind.TEXT, Kind.ITEM], [Kind.ITEM, Kind.ITEM, Kind.QUERY]], dtype=torch.int64)
    users = ranker(vectors, kinds, torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert torch.allclose(users, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))


def test_agreement_tells_the_same_from_another() -> None:
    rng = np.random.default_rng(0)
    vectors, others, items = (rng.normal(size=(n, 16)).astype(np.float32) for n in (40, 40, 200))
    vectors, others = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (vectors, others))
    same, different = agreement(vectors, vectors, items, 0), agreement(vectors, others, items, 0)
    assert (round(same["cosine"].mean, 4), same["overlap"].mean) == (1.0, 1.0)
    assert different["cosine"].mean < 0.2
    assert different["overlap"].mean < 0.2


def test_texts_for_the_proof_are_not_among_those_that_are_taught() -> None:
    dataset = Dataset(_ITEMS, [], ["lamp"], [], "made up", "none")
    few, many = write_texts(dataset, 0, ["a", "b"]), write_texts(dataset, 0, [f"text {n}" for n in range(1_000)])
    for texts in (few, many):
        assert not {*unseen(texts, 0)} & {*texts.all}
    assert unseen(many, 0) == [f"text {n}" for n in range(0, 1_000, 10)]
    assert "a" in unseen(few, 0)
    assert isinstance(few, Texts)
