"""A damaged checkpoint is refused in a sentence with file, field and remedy; labels name items."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from swiftrec.export.checkpoints.checkpoint import locate
from swiftrec.export.checkpoints.formats import read_head
from swiftrec.export.checkpoints.head import Head
from swiftrec.export.data.issues import Issues, has_label
from swiftrec.export.data.loader import load
from swiftrec.export.data.scan import LoadOptions
from swiftrec.export.errors import CheckpointError
from swiftrec.export.models.teacher import Teacher, load_teacher, save_teacher
from swiftrec.export.stages.data import write_verified
from tests.export.bi_encoders import change, require_same
from tests.export.checkpoints import HIDDEN, WORDS, add_modules, save_model, save_sentence_transformer


def save(kind: str, folder: Path) -> Path:
    if kind == "bi-encoder":
        save_sentence_transformer("bert", folder, dense=8)
        (folder / "config_sentence_transformers.json").write_text("{}")
    else:
        labels = {n: f"item-{n}" for n in range(4)}
        save_model(kind, folder, "ForSequenceClassification", id2label=labels)
    return folder


def refused(folder: Path) -> str:
    """What is said when it is adopted."""
    with pytest.raises(CheckpointError) as caught:
        write_verified(locate(str(folder), folder, folder), folder.with_name("out"), adopt=True, max_tokens=128)
    return str(caught.value)


_FILES = ["config.json", "modules.json", "1_Pooling/config.json", "2_Dense/config.json"]


@pytest.mark.parametrize("file", [*_FILES, "config_sentence_transformers.json"])
@pytest.mark.parametrize("content", ["", "[1]", "null", '"x"', "{", '{"a": 1, "a": 2}', '[{"type": 3}]'])
def test_damaged_file_of_a_bi_encoder_is_named(tmp_path: Path, file: str, content: str) -> None:
    folder = save("bi-encoder", tmp_path / "given")
    (folder / file).write_text(content)
    said = refused(folder)
    assert said.startswith(str(folder / file))
    assert "save the checkpoint again" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("kind", "file", "field", "value", "message"),
    [
        ("bi-encoder", "config.json", "num_attention_heads", None, "num_attention_heads is None, needs to divide"),
        ("bi-encoder", "config.json", "num_attention_heads", 5, "num_attention_heads is 5, needs to divide the width"),
        ("bi-encoder", "config.json", "hidden_act", "wave", "hidden_act is 'wave'; use one of gelu"),
        ("bi-encoder", "config.json", "layer_norm_eps", "x", "layer_norm_eps is 'x', needs to be a number"),
        ("bi-encoder", "config.json", "model_type", ["bert"], "model_type is ['bert'], needs to be a text"),
        ("roberta", "config.json", "pad_token_id", "x", "pad_token_id is 'x', needs to be a whole number"),
        ("roberta", "config.json", "architectures", "x", "architectures is 'x', needs to be a list"),
        ("bi-encoder", "2_Dense/config.json", "activation_function", 3, "activation_function is 3, needs to be a text"),
        ("bert", "config.json", "id2label", ["a"], "id2label is ['a'], needs to be an object"),
    ],
)
def test_damaged_field_is_named(tmp_path: Path, kind: str, file: str, field: str, value: object, message: str) -> None:
    folder = save(kind, tmp_path / "given")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | {field: value}))
    said = refused(folder)
    assert said.startswith(str(folder / file))
    assert message in said


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "a", "1": "b", "2": "c", "4": "d"}, "has the key '4', needs 0 to 3"),
        ({"1": "a", "2": "b", "3": "c", "4": "d"}, "has the key '4', needs 0 to 3"),
        ({"0": "a", "00": "b", "1": "c", "2": "d"}, "has the key '00', needs 0 to 3"),
        ({"a": "a", "b": "b", "c": "c", "d": "d"}, "has the key 'a', needs 0 to 3"),
        ({"0": "a", "1": "b", "2": "c", "-1": "d"}, "has the key '-1', needs 0 to 3"),
        ({"0": "a", "1": "b", "2": "c"}, "names 3 items, the head has 4 rows"),
        ({str(n): str(n) for n in range(5)}, "names 5 items, the head has 4 rows"),
        ({"0": "a", "1": None, "2": "c", "3": "d"}, "names None, which is not an item_id"),
        ({"0": "a", "1": {}, "2": "c", "3": "d"}, "names {}, which is not an item_id"),
        ({"0": "1", "1": 1, "2": "c", "3": "d"}, "names an item twice"),
        ({}, "names no items"),
    ],
)
def test_labels_that_do_not_name_each_row_are_refused(tmp_path: Path, labels: dict[str, Any], message: str) -> None:
    folder = save("bert", tmp_path / "given")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": labels}))
    said = refused(folder)
    assert f"{folder / 'config.json'}: id2label {message}" in said
    assert "give each row its item_id there, or use --adopt never" in said


def test_labels_are_assigned_by_their_keys(tmp_path: Path) -> None:
    folder = save("bert", tmp_path / "given")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"3": "d", "1": 17, "0": "a", "2": "c"}}))
    write_verified(locate(str(folder), folder, folder), tmp_path / "out", adopt=True, max_tokens=128)
    head = Head.load(tmp_path / "out")
    assert head is not None
    assert head.labels == ("a", "17", "c", "d")


def test_dense_layer_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = save("bi-encoder", tmp_path / "given")
    save_file({"linear.weight": torch.randn(8, HIDDEN + 1)}, folder / "2_Dense" / "model.safetensors")
    assert f"are (8, {HIDDEN}, True), model.safetensors has (8, {HIDDEN + 1}, False)" in refused(folder)
    shutil.rmtree(tmp_path / "out")
    (folder / "2_Dense" / "config.json").write_text(
        json.dumps({"in_features": HIDDEN + 1, "out_features": 8, "bias": False})
    )
    assert f"takes vectors of {HIDDEN + 1} numbers, the encoder gives {HIDDEN}" in refused(folder)
    save_file({"weight": torch.randn(8, HIDDEN)}, folder / "2_Dense" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.safetensors: holds no linear.weight"):
        read_head(folder, "bi-encoder")


@pytest.mark.parametrize("content", ["{", "[]", '{"hidden": 8}', '{"kind": "bi-encoder", "mode": "max", "labels": []}'])
def test_damaged_teacher_of_an_earlier_export_is_named(tmp_path: Path, content: str) -> None:
    save_teacher(Teacher(HIDDEN, 8, 3, 17), tmp_path)
    (tmp_path / "teacher.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"teacher.json: no teacher can be read .* export it again"):
        load_teacher(tmp_path)
    (tmp_path / "head.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"head.json: cannot be read .* export that teacher again"):
        Head.load(tmp_path)


def not_finite(path: Path, name: str, value: float) -> None:
    tensors = load_file(path)
    tensors[name].view(-1)[0] = value
    save_file(tensors, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("kind", "file", "name"),
    [
        ("bert", "model.safetensors", "bert.encoder.layer.0.output.dense.weight"),
        ("roberta", "model.safetensors", "roberta.embeddings.word_embeddings.weight"),
        ("distilbert", "model.safetensors", "classifier.bias"),
        ("bi-encoder", "2_Dense/model.safetensors", "linear.weight"),
    ],
)
def test_weights_that_are_not_finite_are_refused_on_reading(
    tmp_path: Path, kind: str, file: str, name: str, value: float
) -> None:
    folder = save(kind, tmp_path / "given")
    not_finite(folder / file, name, value)
    assert refused(folder).startswith(f"{folder / file}: {name} has a number that is NaN or infinite: ")


def test_head_of_an_earlier_export_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    save_model("bert", folder / "checkpoint")
    save_teacher(Teacher(HIDDEN, 8, 3, 17), folder)
    not_finite(folder / "teacher.safetensors", "projection.weight", float("nan"))
    assert f"{folder / 'teacher.safetensors'}: projection.weight has a number that is NaN" in refused(folder)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
@pytest.mark.parametrize("folder", ["bert", "bi-encoder"])
def test_quantised_weights_are_refused_on_reading(tmp_path: Path, kind: torch.dtype, folder: str) -> None:
    given = save(folder, tmp_path / "given")
    file, name = {
        "bert": (given / "model.safetensors", "bert.encoder.layer.0.output.dense.weight"),
        "bi-encoder": (given / "2_Dense" / "model.safetensors", "linear.weight"),
    }[folder]
    tensors = load_file(file)
    save_file(tensors | {name: tensors[name].to(kind)}, file)
    said = refused(given)
    assert said.startswith(f"{file}: {name} is {kind}, supported are torch.float32, ")
    assert "\n" not in said


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_floating_types_are_read(tmp_path: Path, kind: torch.dtype) -> None:
    folder = save("bi-encoder", tmp_path / "given")
    for file in (folder / "model.safetensors", folder / "2_Dense" / "model.safetensors"):
        save_file({name: tensor.to(kind) for name, tensor in load_file(file).items()}, file)
    change(folder, "config.json", {"dtype": str(kind).removeprefix("torch.")})
    require_same(folder, WORDS)


def test_adapter_without_its_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "bert"}')
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    assert refused(tmp_path).startswith(f"{tmp_path / 'adapter_config.json'}: adapters are not supported: merge it ")


@pytest.mark.parametrize("content", [None, "", "{}", '{"model": {"type": "WordPiece"}}'])
def test_missing_or_damaged_tokenizer_of_an_earlier_export_is_named(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "given"
    save_model("bert", folder / "checkpoint")
    save_teacher(Teacher(HIDDEN, 8, 3, 17), folder)
    file = folder / "checkpoint" / "tokenizer.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    said = refused(folder)
    assert said.startswith(f"{file}: cannot be read (")
    assert "\n" not in said


def test_missing_tokenizer_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = save("bi-encoder", tmp_path / "given")
    (folder / "tokenizer.json").unlink()
    said = refused(folder)
    assert said.startswith(f"{folder}: holds no tokenizer (none of tokenizer.json, vocab.txt, ")
    assert said.endswith("put its tokenizer.json there")
    shutil.rmtree(tmp_path / "out")
    (folder / "vocab.json").write_text("{}")
    said = refused(folder)
    assert said.startswith(f"{folder}: no tokenizer can be read (")
    assert said.endswith("put its tokenizer.json there")
    assert "\n" not in said


@pytest.mark.parametrize("content", ["", "{}", "[1]", "null", '{"model": {"type": "WordPiece"}}'])
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_tokenizer_is_named(tmp_path: Path, file: str, content: str) -> None:
    folder = save("bi-encoder", tmp_path / "given")
    (folder / file).write_text(content)
    if file == "tokenizer_config.json" and content.startswith("{"):
        write_verified(
            locate(str(folder), folder, folder), tmp_path / "out", adopt=True, max_tokens=128
        )  # says nothing
        return
    said = refused(folder)
    assert str(folder / file) in said
    assert "\n" not in said


def sharded(family: str, folder: Path, task: str = "Model", **config: Any) -> Path:  # noqa: ANN401
    """A checkpoint whose weights are in several files."""
    model = save_model(family, folder, task, **config)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len([*folder.glob("model-*-of-*.safetensors")]) > 2
    return folder


@pytest.mark.parametrize("kind", ["encoder", "classifier", "bi-encoder"])
def test_sharded_weights_equal_those_in_one_file(tmp_path: Path, kind: str) -> None:
    task, config = (
        ("ForSequenceClassification", {"id2label": {0: "a", 1: "b"}}) if kind == "classifier" else ("Model", {})
    )
    whole, parts = tmp_path / "whole", sharded("distilbert", tmp_path / "parts", task, **config)
    save_model("distilbert", whole, task, **config)
    for folder in (whole, parts) if kind == "bi-encoder" else ():
        add_modules(folder, HIDDEN)
    for folder in (whole, parts):
        target = folder.with_name(f"{folder.name}-as-bert")
        write_verified(locate(str(folder), folder, folder), target, adopt=kind != "encoder", max_tokens=128)
    for file in ("model.safetensors", "head.safetensors") if kind == "classifier" else ("model.safetensors",):
        single, split = (load_file(tmp_path / f"{name}-as-bert" / file) for name in ("whole", "parts"))
        assert single.keys() == split.keys()
        assert all(torch.equal(single[name], split[name]) for name in single)


def test_missing_damaged_or_outside_shard_is_named(tmp_path: Path) -> None:
    folder = sharded("bert", tmp_path / "given")
    index, first = folder / "model.safetensors.index.json", next(iter(sorted(folder.glob("model-*"))))
    content = first.read_bytes()
    first.write_bytes(content[:50])
    assert refused(folder).startswith(f"{first}: cannot be read")
    shutil.rmtree(tmp_path / "out")
    first.unlink()
    assert refused(folder).startswith(f"{first}: cannot be read")
    shutil.rmtree(tmp_path / "out")
    first.write_bytes(content)
    facts = json.loads(index.read_text())
    index.write_text(json.dumps(facts | {"weight_map": facts["weight_map"] | {"more": first.name}}))
    assert refused(folder).startswith(f"{index}: no file holds more: ")
    shutil.rmtree(tmp_path / "out")
    index.write_text(json.dumps(facts | {"weight_map": facts["weight_map"] | {"more": f"../{first.name}"}}))
    assert f"{index}: weight_map names the file '../{first.name}'" in refused(folder)


_LABELS = ["AC  DC", "a\u00a0b", " c ", "1.0", "1", "x|y,z"]


def test_labels_match_item_ids_byte_for_byte(tmp_path: Path) -> None:
    save_model("bert", tmp_path / "bert", "ForSequenceClassification", id2label=dict(enumerate(_LABELS)))
    head = read_head(tmp_path / "bert", "classifier")
    assert head is not None
    assert list(head.labels) == _LABELS
    (tmp_path / "items.jsonl").write_text("\n".join(json.dumps({"item_id": i, "text": "t"}) for i in _LABELS))
    (tmp_path / "out").mkdir()
    collected = load(tmp_path, tmp_path / "out", LoadOptions(needs_interactions=False, labels={*head.labels}))
    assert [item.id for item in collected.dataset.items] == _LABELS


@pytest.mark.parametrize(
    ("label", "fault"),
    [
        ("a\tb", r"id2label names 'a\\tb', which holds the control character U\+0009, so it is not an item_id"),
        ("  ", "id2label names '  ', which is empty or white space only"),
        ("x" * 513, "which has 513 bytes as UTF-8, at most 512 are allowed"),
    ],
)
def test_label_that_is_not_an_id_is_named(tmp_path: Path, label: str, fault: str) -> None:
    save_model("bert", tmp_path / "bert", "ForSequenceClassification", id2label={0: "a", 1: label, 2: "c"})
    with pytest.raises(CheckpointError, match=fault):
        read_head(tmp_path / "bert", "classifier")


@pytest.mark.parametrize(
    ("item", "hint"),
    [("1", ", but '1.0' is: the ids were converted"), ("b", ", but ' b' is: blanks around an id"), ("c", "")],
)
def test_hint_is_given_when_a_label_has_another_spelling(item: str, hint: str) -> None:
    issues = Issues()
    assert not has_label(item, {"1.0", " b"}, "here", issues)
    assert f"item_id {item!r} is not among the labels in id2label of the checkpoint{hint}" in issues.report()
    assert (", but" in issues.report()) == bool(hint)
