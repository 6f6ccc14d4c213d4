"""Stage `data`: skipped rows are recorded, and the kind of checkpoint decides whether it is adopted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from swiftrec.export.checkpoints.head import Head
from swiftrec.export.config import ExportSettings
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.profile import RATINGS
from swiftrec.export.data.text_variants import Texts, TextVariant, unseen
from swiftrec.export.errors import CheckpointError, DataError
from swiftrec.export.evaluate.reference import Reference
from swiftrec.export.job import Job
from swiftrec.export.stages.data import run
from tests.export.checkpoints import save_model, save_sentence_transformer
from tests.export.tiny import dataset as tiny_dataset


def write(folder: Path, *, events: bool = True) -> None:
    """Four items and two users; with two rows that are wrong where there are events."""
    folder.mkdir()
    items: list[dict[str, Any]] = [{"item_id": n, "text": f"thing {n}\u2028new line", "kind": "x"} for n in range(4)]
    rows: list[dict[str, Any]] = [{"user_id": u, "item_id": n, "timestamp": n} for u in "ab" for n in range(4)]
    if events:
        items.append({"item_id": 0, "text": "again"})
        rows.append({"user_id": "a", "item_id": "nowhere", "timestamp": 1})
        (folder / "interactions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": f"text {n}"}) for n in range(20)))


def collected(folder: Path, *flags: str) -> dict[str, dict[str, str]]:
    settings = ["--data", str(folder / "data"), "--checkpoint", str(folder / "checkpoint"), *flags]
    (folder / "out").mkdir()
    run(Job(ExportSettings(artifacts=folder, _cli_parse_args=settings)), folder / "out")
    sources: dict[str, dict[str, str]] = json.loads((folder / "out" / "sources.json").read_text())
    return sources


def test_skipped_rows_are_counted_in_the_record(tmp_path: Path) -> None:
    write(tmp_path / "data")
    save_model("distilbert", tmp_path / "checkpoint")
    sources = collected(tmp_path, "--on-error", "skip")
    assert sources["data"]["skipped"] == "1 duplicate item_id, 1 unknown item"
    assert sources["data"]["items"] == "4, of which 4 have interactions"
    assert (sources["checkpoint"]["kind"], sources["checkpoint"]["family"]) == ("encoder", "distilbert")
    texts = Texts.load(tmp_path / "out")
    assert texts.variants[TextVariant.FULL][0] == "thing 0 new line"
    assert (len(texts.others), texts.held) == (18, ["text 0", "text 10"])


def test_issues_stop_the_stage_unless_they_are_skipped(tmp_path: Path) -> None:
    write(tmp_path / "data")
    save_model("bert", tmp_path / "checkpoint")
    with pytest.raises(DataError, match="duplicate item_id, 1 time"):
        collected(tmp_path)


@pytest.mark.parametrize("late", [True, False])
def test_export_gives_the_same_warnings_of_times_as_doctor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], late: bool
) -> None:
    home = tmp_path / "a, b"  # a folder's name may hold a comma
    home.mkdir()
    write(home / "data")
    path = home / "data" / "interactions.jsonl"
    if late:
        path.write_text(path.read_text().replace('"timestamp": 3', '"timestamp": "2999-01-01"', 1))
    save_model("bert", home / "checkpoint")
    collected(home, "--on-error", "skip")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    warning = f"  warning: {path}: 1 timestamp is in the future, the latest 2999-01-01 00:00:00 (first: line 4)"
    assert [line.partition(": check")[0] for line in warnings if "timestamp" in line] == ([warning] if late else [])
    (chance,) = [line for line in warnings if "only 2 users" in line]
    assert "the 95 % interval of NDCG@10 will be about +-0.35" in chance


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ([0, 0, 0, 0], "column timestamp is 0 in every row"),
        ([""] * 4, "column timestamp is empty in every row"),
    ],
)
def test_export_refuses_times_without_order_and_trains_without_it_on_demand(
    tmp_path: Path, times: list[object], reason: str
) -> None:
    write(tmp_path / "data")
    path = tmp_path / "data" / "interactions.jsonl"
    rows = [
        json.loads(line) | {"timestamp": time}
        for line, time in zip(path.read_text().splitlines()[:8], times * 2, strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    save_model("bert", tmp_path / "checkpoint")
    with pytest.raises(DataError) as caught:
        collected(tmp_path, "--on-error", "skip")
    assert f"{path}: {reason}" in str(caught.value)
    assert "--order none trains without order" in str(caught.value)
    (tmp_path / "out").rename(tmp_path / "refused")
    sources = collected(tmp_path, "--on-error", "skip", "--order", "none")
    assert sources["data"]["order"].startswith("without order (--order none)")
    dataset = Dataset.load(tmp_path / "out")
    assert (dataset.order, dataset.times) == ("none", [])
    assert [sorted(history.tolist()) for history in dataset.histories] == [[0, 1, 2, 3]] * 2


def test_movielens_can_be_trained_without_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model("bert", tmp_path / "checkpoint")
    monkeypatch.setattr("swiftrec.export.stages.data.fetch", lambda *_: tmp_path)
    monkeypatch.setattr("swiftrec.export.data.movielens.read", lambda *_: tiny_dataset())
    (tmp_path / "out").mkdir()
    flags = ["--checkpoint", str(tmp_path / "checkpoint"), "--order", "none"]
    run(Job(ExportSettings(artifacts=tmp_path, _cli_parse_args=flags)), tmp_path / "out")
    assert Dataset.load(tmp_path / "out").order == "none"


@pytest.mark.parametrize("ratings", [True, False])
def test_export_names_the_loss_that_uses_ratings_when_there_are_ratings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ratings: bool
) -> None:
    write(tmp_path / "data")
    path = tmp_path / "data" / "interactions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    if ratings:
        path.write_text("\n".join(json.dumps(row | {"rating": n % 5 + 1}) for n, row in enumerate(rows)))
    save_model("bert", tmp_path / "checkpoint")
    sources = collected(tmp_path, "--on-error", "skip")
    assert (f"  {RATINGS}" in capsys.readouterr().err.splitlines()) == ratings
    assert sources["data"].get("ratings") == ("1 to 5" if ratings else None)


@pytest.mark.parametrize(
    ("events", "flags", "is_pretrained"),
    [
        (False, [], True),
        (True, [], False),
        (True, ["--adopt", "always"], True),
        (True, ["--adopt", "never"], False),
    ],
)
def test_bi_encoder_is_adopted_without_interactions(
    tmp_path: Path, events: bool, flags: list[str], is_pretrained: bool
) -> None:
    write(tmp_path / "data", events=events)
    save_sentence_transformer("bert", tmp_path / "checkpoint")
    sources = collected(tmp_path, "--on-error", "skip", *flags)
    assert sources["checkpoint"]["use"] == ("adopted as it is" if is_pretrained else "fine-tuned here")
    assert (Head.load(tmp_path / "out" / "checkpoint") is not None) == is_pretrained


def test_classifier_is_adopted_unless_the_flag_forbids_it(tmp_path: Path) -> None:
    write(tmp_path / "data")
    save_model("roberta", tmp_path / "checkpoint", "ForSequenceClassification", id2label=dict(enumerate("0123")))
    assert collected(tmp_path, "--on-error", "skip")["checkpoint"]["use"] == "adopted as it is"
    (tmp_path / "out").rename(tmp_path / "first")
    assert collected(tmp_path, "--on-error", "skip", "--adopt", "never")["checkpoint"]["use"] == "fine-tuned here"


def test_item_without_a_label_can_be_skipped_and_is_counted(tmp_path: Path) -> None:
    write(tmp_path / "data", events=False)
    save_model("bert", tmp_path / "checkpoint", "ForSequenceClassification", id2label=dict(enumerate("0129")))
    with pytest.raises(DataError, match=r"item without a label, 1 time: remove the item from items, name it in"):
        collected(tmp_path)
    (tmp_path / "out").rename(tmp_path / "first")
    sources = collected(tmp_path, "--on-error", "skip")
    assert sources["data"]["skipped"] == "1 item without a label"
    assert sources["data"]["items"] == "3, of which 0 have interactions"


def unsupported(folder: Path, kind: str) -> str:
    """Make the checkpoint one that cannot be used; return what is said of it."""
    config = json.loads((folder / "config.json").read_text())
    if kind == "tokenizer":
        (folder / "tokenizer.json").unlink()
        return "holds no tokenizer"
    if kind == "weights":
        tensors = load_file(folder / "model.safetensors")
        tensors["embeddings.word_embeddings.weight"][0] = float("nan")
        save_file(tensors, folder / "model.safetensors")
        return "embeddings.word_embeddings.weight has a number that is NaN"
    if kind == "activation":
        (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "silu"}))
        return "hidden_act is 'silu'; use one of gelu"
    if kind == "head":
        (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "max"}')
        return "pooling_mode is 'max', supported is one of cls, mean"
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    return f"model_type is '{kind}'; use one of bert, distilbert"


@pytest.mark.parametrize(
    "kind", ["mpnet", "modernbert", "deberta-v2", "albert", "tokenizer", "weights", "activation", "head"]
)
def test_checkpoint_that_cannot_be_used_is_refused_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write(tmp_path / "data", events=False)
    save_sentence_transformer("bert", tmp_path / "checkpoint")
    said = unsupported(tmp_path / "checkpoint", kind)
    monkeypatch.setattr("swiftrec.export.data.loader.load", lambda *_, **__: pytest.fail("data were read"))
    with pytest.raises(CheckpointError) as caught:
        collected(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_of_the_checkpoint_that_are_not_used_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data", events=False)
    folder = tmp_path / "checkpoint"
    save_sentence_transformer("bert", folder)
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "query: ", "document": ""}}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    collected(tmp_path)
    printed = capsys.readouterr().err.splitlines()
    assert "  prompts of the checkpoint are not used: query" in printed
    assert "  texts are truncated to 128 tokens; max_seq_length of the checkpoint is 256" in printed


@pytest.mark.parametrize("flags", [[], ["--adopt", "never"]])
def test_unsupported_head_is_ignored_when_only_the_encoder_is_used(tmp_path: Path, flags: list[str]) -> None:
    write(tmp_path / "data")
    save_sentence_transformer("bert", tmp_path / "checkpoint")
    unsupported(tmp_path / "checkpoint", "head")
    assert collected(tmp_path, "--on-error", "skip", *flags)["checkpoint"]["use"] == "fine-tuned here"


@pytest.mark.parametrize("events", [True, False])
def test_adopted_checkpoint_without_interactions_writes_a_reference(tmp_path: Path, events: bool) -> None:
    write(tmp_path / "data", events=events)
    save_sentence_transformer("bert", tmp_path / "checkpoint")
    collected(tmp_path, "--on-error", "skip", "--adopt", "always")
    assert (tmp_path / "out" / "reference.json").exists() == (not events)
    if not events:
        assert Reference.load(tmp_path / "out").texts == unseen(Texts.load(tmp_path / "out"), seed=7)
