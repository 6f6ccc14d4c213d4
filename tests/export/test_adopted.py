"""Recommenders that come in trained: tiny, random, through every stage to a bundle that answers as they do."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from swiftrec.export.models.encoder import load_tokenizer
from swiftrec.server.models.bundle import SENTENCES, load_bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from tests.conftest import ROOT
from tests.export.checkpoints import WORDS, save_model, save_sentence_transformer
from tests.server.support.process import serving

_ITEMS = 60
_TEXTS = [" ".join(random.Random(n).choices(WORDS, k=1 + n % 9)) for n in range(800)]


def write_data(folder: Path, *, events: int = 0) -> None:
    """60 items, the texts, and `events` interactions of each of 40 users."""
    folder.mkdir()
    rng = random.Random(1)
    items = [
        {"item_id": f"i{n}", "text": " ".join(rng.sample(WORDS, 3)), "colour": WORDS[n % 3]} for n in range(_ITEMS)
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in _TEXTS))
    rows = [
        {"user_id": u, "item_id": f"i{rng.randrange(_ITEMS)}", "timestamp": t} for u in range(40) for t in range(events)
    ]
    if rows:
        (folder / "interactions.jsonl").write_text("\n".join(map(json.dumps, rows)))


def export(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swiftrec.export", "--name", "own", "--artifacts", str(folder / "artifacts")]
    command += ["--data", str(folder / "data"), "--checkpoint", str(folder / "checkpoint"), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def logits(model: Any, folder: Path, text: str) -> torch.Tensor:  # noqa: ANN401
    row = load_tokenizer(folder, 128).encode([text])
    with torch.inference_mode():
        scores: torch.Tensor = model(input_ids=torch.tensor(row)).logits[0]
    return scores


def test_bundle_of_a_classifier_without_interactions_ranks_by_its_logits(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    labels = {row: f"i{_ITEMS - 1 - row}" for row in range(_ITEMS)}  # another order than the items'
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
            expected = {labels[int(row)] for row in logits(model, tmp_path / "checkpoint", text).topk(10).indices}
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
    labels = {row: f"i{row}" for row in range(_ITEMS)}
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
