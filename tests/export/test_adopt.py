"""A checkpoint that is adopted as the teacher keeps its ranking, from the stages up to the served bundle."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from swiftrec.export.checkpoints.checkpoint import locate
from swiftrec.export.config import ExportSettings
from swiftrec.export.data.dataset import Dataset, DatasetItem
from swiftrec.export.data.text_variants import Texts, TextVariant, unseen, write_texts
from swiftrec.export.errors import CheckpointError
from swiftrec.export.evaluate import reference as reference_module
from swiftrec.export.evaluate.checkpoint_library import load_in_library
from swiftrec.export.evaluate.fidelity import agreement
from swiftrec.export.evaluate.metrics import best
from swiftrec.export.evaluate.reference import Reference
from swiftrec.export.job import Job
from swiftrec.export.models.encoder import TextEncoder, load_bert, load_tokenizer, pad
from swiftrec.export.models.ranker import LastUser
from swiftrec.export.models.rankers import MeanRanker
from swiftrec.export.models.sentence_space import load_sentence_map, load_sentences
from swiftrec.export.models.teacher import Teacher, load_teacher, save_teacher
from swiftrec.export.stages.data import write_verified
from swiftrec.export.train.pretrained import take_pretrained
from swiftrec.server.models.bundle import SENTENCES, load_bundle
from swiftrec.server.models.networks import EventKind
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from tests.export.checkpoints import HIDDEN, WORDS, save_model, save_sentence_transformer
from tests.export.command import run_export
from tests.server.support.process import serving

_ITEMS = [DatasetItem(f"i{n}", f"{word} lamp", f"{word} lamp, soft", {"kind": [word]}) for n, word in enumerate(WORDS)]


def adopted(folder: Path, *, preset: str = "smoke") -> tuple[Teacher, torch.Tensor, list[str], Path]:
    """Adopt `folder/original` for twelve items: the teacher, its text vectors of the items, the texts, the stage."""
    job = Job(ExportSettings(artifacts=folder, name="tiny", _cli_parse_args=["--preset", preset]))
    data, target = job.folder("data"), folder / "out"
    data.mkdir(parents=True)
    target.mkdir()
    dataset = Dataset(_ITEMS, [], ["lamp"], [], "made up", "none")
    dataset.save(data)
    texts = write_texts(dataset, 0)
    texts.save(data)
    checkpoint = locate(str(folder / "original"), folder, folder)
    write_verified(checkpoint, data / "checkpoint", adopt=True, max_tokens=128)
    take_pretrained(job, target)
    teacher = load_teacher(target)
    pooled = torch.from_numpy(np.load(target / "pooled.npy"))
    assert len(pooled) == len(texts.all)
    return teacher, teacher.text_vectors(pooled[: len(_ITEMS)]), [*texts.variants[TextVariant.FULL]], target


def logits(model: Any, folder: Path, texts: list[str]) -> torch.Tensor:  # noqa: ANN401
    ids, mask = pad(load_tokenizer(folder, 128).encode(texts))
    with torch.inference_mode():
        scores: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return scores


def test_adopted_classifier_ranks_by_its_logits(tmp_path: Path) -> None:
    labels = {row: f"i{len(WORDS) - row}" for row in range(len(WORDS) + 1)}  # one label is no item
    model = save_model("distilbert", tmp_path / "original", "ForSequenceClassification", id2label=labels)
    teacher, vectors, texts, target = adopted(tmp_path)
    with torch.inference_mode():
        scores = vectors @ (vectors + teacher.residual).T
        expected = logits(model, tmp_path / "original", texts)[:, [len(WORDS) - n for n in range(len(WORDS))]]
    assert (scores.argsort(descending=True) == expected.argsort(descending=True)).all()
    assert (target / "checkpoint" / "model.safetensors").exists()
    assert load_sentence_map(target) is None
    assert load_sentences(target, len(_ITEMS)).shape == (len(_ITEMS), 0)


def test_exported_teacher_keeps_its_projection_and_ranker_when_adopted(tmp_path: Path) -> None:
    save_model("bert", tmp_path / "original" / "checkpoint")
    own = Teacher(HIDDEN, 8, 3, 17, ranker="gru", dropout=0.0)
    save_teacher(own, tmp_path / "original")
    teacher, vectors, _, _ = adopted(tmp_path)
    assert vectors.shape == (len(_ITEMS), 8)
    assert not teacher.residual.any()
    for name, weight in own.ranker.state_dict().items():
        assert torch.equal(weight, teacher.ranker.state_dict()[name])


def test_exported_teacher_is_refused_when_its_histories_are_shorter(tmp_path: Path) -> None:
    save_model("bert", tmp_path / "original" / "checkpoint")
    save_teacher(Teacher(HIDDEN, 8, 3, 17), tmp_path / "original")
    with pytest.raises(CheckpointError, match="reads 16 events, 64 are needed: use the preset"):
        adopted(tmp_path, preset="quick")


def test_dot_product_keeps_the_length_of_item_vectors(tmp_path: Path) -> None:
    save_sentence_transformer("bert", tmp_path / "original", dense=5, unit=False)
    (tmp_path / "original" / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "dot"}')
    teacher, vectors, _, target = adopted(tmp_path)
    pooled = torch.from_numpy(np.load(target / "pooled.npy"))[: len(_ITEMS)]
    assert torch.allclose(vectors + teacher.residual, pooled, atol=1e-6)
    assert not torch.allclose(vectors, pooled, atol=1e-2)


def test_average_of_earlier_events_ignores_the_query() -> None:
    ranker = LastUser(MeanRanker(2, 9))
    vectors = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [9.0, 9.0]], [[1.0, 0.0], [1.0, 0.0], [0.0, 3.0]]])
    kinds = torch.tensor(
        [[EventKind.ITEM, EventKind.TEXT, EventKind.ITEM], [EventKind.ITEM, EventKind.ITEM, EventKind.QUERY]],
        dtype=torch.int64,
    )
    users = ranker(vectors, kinds, torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert torch.allclose(users, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))


def test_agreement_is_high_for_the_same_vectors_only() -> None:
    rng = np.random.default_rng(0)
    vectors, others, items = (rng.normal(size=(n, 16)).astype(np.float32) for n in (40, 40, 200))
    vectors, others = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (vectors, others))
    shown = np.arange(0, 200, 2)
    top = np.stack([best(vector @ items[shown].T) for vector in vectors])
    reference = Reference("a library", ["text"] * 40, vectors, shown, top)
    same, different = agreement(reference, vectors, items, 0), agreement(reference, others, items, 0)
    assert (round(same["cosine"].mean, 4), same["overlap"].mean) == (1.0, 1.0)
    assert different["cosine"].mean < 0.2
    assert different["overlap"].mean < 0.2


@pytest.mark.parametrize("kind", ["classifier", "bi-encoder", "own"])
def test_reference_has_the_vectors_of_the_checkpoints_library(tmp_path: Path, kind: str) -> None:
    folder, texts = tmp_path / "original", ["red lamp", "a good soft vase", "chair"]
    if kind == "classifier":
        labels = {row: f"i{len(WORDS) - 1 - row}" for row in range(len(WORDS))}
        model = save_model("electra", folder, "ForSequenceClassification", id2label=labels)
        with torch.inference_mode():
            scores = logits(model, folder, texts).flip(1)
    elif kind == "bi-encoder":
        save_sentence_transformer("roberta", folder, dense=9)
        encode = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode
        scores = torch.from_numpy(encode(texts) @ encode([item.text for item in _ITEMS]).T)
    else:
        save_model("bert", folder / "checkpoint")
        save_teacher(own := Teacher(HIDDEN, 8, 3, 17, ranker="gru", dropout=0.0), folder)
        encoder = TextEncoder(load_bert(folder / "checkpoint"), 8)
        encoder.projection = own.projection
        rows = load_tokenizer(folder / "checkpoint", 128).encode([*texts, *(item.text for item in _ITEMS)])
        with torch.inference_mode():
            vectors = encoder.eval()(*pad(rows))
        scores = vectors[:3] @ vectors[3:].T
    name = locate(str(folder), folder, folder).kind
    Reference.make(load_in_library(folder, name, 128), texts, _ITEMS).save(tmp_path)
    reference = Reference.load(tmp_path)
    assert (reference.top == scores.argsort(descending=True, stable=True)[:, :10].numpy()).all()
    assert np.allclose(np.linalg.norm(reference.vectors, axis=1), 1, atol=1e-5)


def test_large_catalogue_is_compared_on_a_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reference_module, "_MAX_ITEMS", 5)
    save_sentence_transformer("bert", tmp_path / "original")
    original = load_in_library(tmp_path / "original", "bi-encoder", 128)
    assert Reference.make(original, ["red"], _ITEMS).items.tolist() == [0, 3, 6, 9]


def test_texts_of_the_reference_are_not_in_training() -> None:
    dataset = Dataset(_ITEMS, [], ["lamp"], [], "made up", "none")
    few, many = write_texts(dataset, 0, ["a", "b"]), write_texts(dataset, 0, [f"text {n}" for n in range(1_000)])
    for texts in (few, many):
        assert not {*unseen(texts, 0)} & {*texts.all}
    assert unseen(many, 0) == [f"text {n}" for n in range(0, 1_000, 10)]
    assert "a" in unseen(few, 0)
    assert isinstance(few, Texts)


_ITEM_COUNT = 60


_TEXTS = [" ".join(random.Random(n).choices(WORDS, k=1 + n % 9)) for n in range(800)]


def write_data(folder: Path, *, events: int = 0) -> None:
    """60 items, the texts, and `events` interactions of each of 40 users."""
    folder.mkdir()
    rng = random.Random(1)
    items = [
        {"item_id": f"i{n}", "text": " ".join(rng.sample(WORDS, 3)), "colour": WORDS[n % 3]} for n in range(_ITEM_COUNT)
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in _TEXTS))
    rows = [
        {"user_id": u, "item_id": f"i{rng.randrange(_ITEM_COUNT)}", "timestamp": t}
        for u in range(40)
        for t in range(events)
    ]
    if rows:
        (folder / "interactions.jsonl").write_text("\n".join(map(json.dumps, rows)))


def export(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    folders = ["--data", str(folder / "data"), "--checkpoint", str(folder / "checkpoint")]
    return run_export("--name", "own", "--artifacts", str(folder / "artifacts"), *folders, *flags)


def test_bundle_of_a_classifier_without_interactions_ranks_by_its_logits(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    labels = {row: f"i{_ITEM_COUNT - 1 - row}" for row in range(_ITEM_COUNT)}  # another order than the items'
    model = save_model("distilbert", tmp_path / "checkpoint", "ForSequenceClassification", id2label=labels)
    done = export(tmp_path, "--preset", "quick")
    assert done.returncode == 0, done.stderr
    manifest = load_bundle(tmp_path / "artifacts" / "own" / "1").manifest
    assert manifest.sources["checkpoint"]["kind"] == "classifier"
    assert manifest.sources["checkpoint"]["family"] == "distilbert"
    assert manifest.quality["protocol"] == "agreement"
    assert manifest.sentence_dimensions == 0
    assert SENTENCES not in manifest.files
    assert {gate["gate"] for gate in manifest.quality["variants"][0]["gates"]} == {"cosine", "overlap"}
    shares = []
    with serving(tmp_path / "artifacts" / "own") as server:
        for text in _TEXTS[:20]:
            reply = server.stub.Recommend(pb.RecommendRequest(query=text, top_k=10), timeout=10)
            expected = {labels[int(row)] for row in logits(model, tmp_path / "checkpoint", [text])[0].topk(10).indices}
            shares.append(len({item.item_id for item in reply.items} & expected) / 10)
        history = [pb.Event(text=_TEXTS[0]), pb.Event(item_id="i3")]
        reply = server.stub.Recommend(pb.RecommendRequest(history=history, top_k=10), timeout=10)
        assert len(reply.items) == 10
    assert sum(shares) / len(shares) >= 0.8


def test_student_that_disagrees_with_the_adopted_teacher_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    save_sentence_transformer("bert", tmp_path / "checkpoint", "cls_token")
    done = export(tmp_path, "--preset", "smoke")
    assert done.returncode == 2, done.stderr
    assert "cosine" in done.stderr
    assert not (tmp_path / "artifacts" / "own").exists()
    again = export(tmp_path, "--preset", "quick")
    assert again.returncode == 0, again.stderr


def test_classifier_with_interactions_is_adopted_and_evaluated(tmp_path: Path) -> None:
    write_data(tmp_path / "data", events=8)
    labels = {row: f"i{row}" for row in range(_ITEM_COUNT)}
    save_model("roberta", tmp_path / "checkpoint", "ForSequenceClassification", id2label=labels)
    done = export(tmp_path, "--preset", "smoke", "--allow-lossy")
    assert done.returncode == 0, done.stderr
    assert "adopted as it is" in done.stderr
    assert {"teacher", "popularity"} <= {*load_bundle(tmp_path / "artifacts" / "own" / "1").manifest.quality["tasks"]}


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        ("encoder", [], "no interactions.csv, interactions.jsonl or interactions.parquet"),
        ("bi-encoder", ["--adopt", "never"], "no interactions.csv"),
        ("classifier", [], "item_id 'i0' is not among the labels in id2label"),
    ],
)
def test_impossible_export_without_interactions_is_reported(
    tmp_path: Path, kind: str, flags: list[str], message: str
) -> None:
    write_data(tmp_path / "data")
    if kind == "classifier":
        save_model("bert", tmp_path / "checkpoint", "ForSequenceClassification", id2label={0: "x", 1: "y"})
    elif kind == "encoder":
        save_model("bert", tmp_path / "checkpoint")
    else:
        save_sentence_transformer("bert", tmp_path / "checkpoint")
    done = export(tmp_path, *flags)
    assert done.returncode == 2
    assert message in done.stderr
