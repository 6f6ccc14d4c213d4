"""Checkpoints of every supported format are read as their own library reads them, or refused."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel

from swiftrec.export import gates
from swiftrec.export.checkpoints.checkpoint import locate
from swiftrec.export.checkpoints.formats import read_head
from swiftrec.export.checkpoints.head import Head
from swiftrec.export.compress.equivalence import alone as by_itself
from swiftrec.export.compress.equivalence import invariance, mean_cosine
from swiftrec.export.compress.graph_rewriter import count_operators
from swiftrec.export.compress.int8 import FORMS, observe, quantise_bert
from swiftrec.export.errors import CheckpointError
from swiftrec.export.models.encoder import TextEncoder, load_bert, load_tokenizer, pad
from swiftrec.export.stages.data import write_verified
from swiftrec.export.stages.onnx import fuse, trace
from swiftrec.server.models.networks import EncoderModel
from swiftrec.server.models.session import open_session
from tests.export.bi_encoders import (
    ABSENT,
    DENSE,
    MAIN,
    POOLING,
    SENTENCE,
    TOKENS,
    bi_encoder,
    change,
    require_same,
    written,
)
from tests.export.checkpoints import FAMILIES, HIDDEN, WORDS, save_model, save_sentence_transformer

_TEXTS = [" ".join(random.Random(n).choices(WORDS, k=1 + n % 9)) for n in range(24)]


def converted(folder: Path, *, adopt: bool = False) -> Path:
    """The checkpoint at `folder` as the stages read it."""
    target = folder.with_name(f"{folder.name}-as-bert")
    write_verified(locate(str(folder), folder, folder), target, adopt=adopt, max_tokens=128)
    return target


def encoded(folder: Path) -> list[list[int]]:
    return load_tokenizer(folder, 128).encode(_TEXTS)


@pytest.mark.parametrize("task", ["Model", "ForSequenceClassification", "ForMaskedLM"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_the_same_vectors_as_a_bert(tmp_path: Path, family: str, task: str) -> None:
    original = save_model(family, tmp_path / "original", task)
    folder = converted(tmp_path / "original")
    backbone, rows = load_bert(folder), encoded(folder)
    ids, mask = pad(rows)
    padding = original.config.pad_token_id
    with torch.inference_mode():
        ours = backbone(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids)).last_hidden_state
        base = original if task == "Model" else original.base_model
        theirs = base(input_ids=ids.masked_fill(mask == 0, padding), attention_mask=mask).last_hidden_state
    assert torch.allclose(ours[mask == 1], theirs[mask == 1], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_fused_and_does_not_depend_on_its_batch(tmp_path: Path, family: str) -> None:
    save_model(family, tmp_path / "original")
    folder = converted(tmp_path / "original")
    encoder, rows = TextEncoder(load_bert(folder), 16, 8).eval(), encoded(folder)
    ids = torch.ones(2, 3, dtype=torch.int64)
    trace(encoder, {"input_ids": ids, "attention_mask": ids}, "vectors", tmp_path / "traced.onnx")
    fuse(tmp_path / "traced.onnx", encoder.backbone.config, tmp_path / "fused.onnx")
    assert not gates.failures(gates.fusion(count_operators(tmp_path / "fused.onnx"), 2))
    model = EncoderModel(open_session(tmp_path / "fused.onnx"))
    alone, together = np.array([model.run([row])[0] for row in rows]), np.array(model.run(rows))
    assert np.abs(alone - together).max() < 1e-5
    with torch.inference_mode():
        assert np.abs(encoder(*pad(rows)).numpy() - together).max() < 1e-5
    quantise_bert(tmp_path / "fused.onnx", tmp_path / "int8.onnx", observe(tmp_path / "fused.onnx", rows), FORMS[0])
    small = EncoderModel(open_session(tmp_path / "int8.onnx"))
    assert mean_cosine(by_itself(small, rows), alone, 16) >= gates.GATES.min_cosine
    assert invariance(small, rows, by_itself(small, rows)) <= gates.GATES.max_invariance


def test_half_precision_weights_are_read_as_float32(tmp_path: Path) -> None:
    save_model("bert", tmp_path / "original").half().save_pretrained(tmp_path / "original")
    assert load_bert(converted(tmp_path / "original")).dtype == torch.float32


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "original"
    save_model("bert", folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    code = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nclass Own: pass\n"
    (folder / "own.py").write_text(code)
    foreign_class = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(foreign_class))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # the answer to a question of transformers
    with pytest.raises(CheckpointError, match=r"(?s)no tokenizer .* put its tokenizer.json there"):
        converted(folder)
    assert not (tmp_path / "ran").exists()


def damaged(folder: Path, file: str, change: dict[str, object]) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; use one of bert, distilbert"),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key', supported is \"absolute\"",
        ),
        ({"embedding_size": 16}, "embedding_size differs from hidden_size"),
    ],
)
def test_checkpoint_other_than_bert_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    save_model("bert", tmp_path / "original")
    damaged(tmp_path / "original", "config.json", change)
    with pytest.raises(CheckpointError, match=message):
        converted(tmp_path / "original")


def test_checkpoint_with_missing_or_foreign_parts_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "original"
    save_model("bert", folder, max_position_embeddings=64)
    with pytest.raises(CheckpointError, match="has 64 positions, at least 128"):
        converted(folder)
    save_model("bert", tmp_path / "short", vocab_size=10)
    with pytest.raises(CheckpointError, match="the tokenizer has id 17, the model has 10 ids"):
        converted(tmp_path / "short")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        write_verified(locate(str(folder), folder, folder), tmp_path / "other", adopt=False, max_tokens=64)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors missing; weights must be one safetensors file"):
        locate(str(folder), folder, folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_adopted_classifier_ranks_as_its_logits_do(tmp_path: Path, family: str) -> None:
    items = [f"item-{n}" for n in range(40)]
    labels = dict(enumerate(items))
    original = save_model(family, tmp_path / "original", "ForSequenceClassification", id2label=labels)
    checkpoint = locate(str(tmp_path / "original"), tmp_path, tmp_path)
    assert checkpoint.kind == "classifier"
    folder = converted(tmp_path / "original", adopt=True)
    head = Head.load(folder)
    assert head is not None
    encoder = TextEncoder(load_bert(folder), 1).eval()
    ids, mask = pad(encoded(folder))
    with torch.inference_mode():
        pooled = encoder.pool(ids, mask)
        scores = pooled @ head.rows_of(items).T
        padded = ids.masked_fill(mask == 0, original.config.pad_token_id)
        logits = original(input_ids=padded, attention_mask=mask).logits
    assert torch.allclose(scores, logits, atol=1e-4)


@pytest.mark.parametrize(("mode", "dense"), [("mean_tokens", 0), ("cls_token", 0), ("mean_tokens", 20)])
def test_adopted_bi_encoder_pools_as_configured(tmp_path: Path, mode: str, dense: int) -> None:
    original = save_sentence_transformer("distilbert", tmp_path / "original", mode, dense)
    assert locate(str(tmp_path / "original"), tmp_path, tmp_path).kind == "bi-encoder"
    folder = converted(tmp_path / "original", adopt=True)
    encoder = TextEncoder(load_bert(folder), 1).eval()
    assert encoder.projection.in_features == (dense or HIDDEN)
    ids, mask = pad(encoded(folder))
    with torch.inference_mode():
        hidden = original(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = (
            hidden[:, 0] if mode == "cls_token" else (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        )
        if dense:
            layer = load_file(tmp_path / "original" / "2_Dense" / "model.safetensors")
            expected = torch.tanh(expected @ layer["linear.weight"].T + layer["linear.bias"])
        assert torch.allclose(encoder.pool(ids, mask), expected, atol=1e-5)


def test_encoder_built_from_the_config_pools_in_the_same_way(tmp_path: Path) -> None:
    save_sentence_transformer("bert", tmp_path / "original", "cls_token", 20)
    folder = converted(tmp_path / "original", adopt=True)
    encoder = TextEncoder(load_bert(folder), 3).eval()
    backbone = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)  # type: ignore[no-untyped-call]
    again = TextEncoder(backbone, 3)
    again.load_state_dict(encoder.state_dict())
    with torch.inference_mode():
        ours, theirs = (each(*pad(encoded(folder))) for each in (encoder, again.eval()))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_unsupported_head_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "classifier"
    save_model("bert", folder, "ForSequenceClassification", num_labels=3)
    with pytest.raises(CheckpointError, match="id2label names no items: give each row its item_id"):
        read_head(folder, "classifier")
    damaged(folder, "config.json", {"id2label": {"0": "a", "1": "b"}})
    with pytest.raises(CheckpointError, match="names 2 items, the head has 3 rows"):
        read_head(folder, "classifier")
    damaged(folder, "config.json", {"id2label": {"0": "a", "1": "b", "2": "a"}})
    with pytest.raises(CheckpointError, match="names an item twice"):
        read_head(folder, "classifier")
    folder = tmp_path / "bi-encoder"
    save_sentence_transformer("bert", folder, "of_another_kind")
    with pytest.raises(CheckpointError, match=r"the field pooling_mode_of_another_kind \(True\) is not supported"):
        read_head(folder, "bi-encoder")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, {"path": "", "type": "some.LSTM"}]))
    with pytest.raises(CheckpointError, match=r"Transformer > Pooling > Normalize > some.LSTM is not supported"):
        read_head(folder, "bi-encoder")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bi_encoder(tmp_path_factory.mktemp("fields") / "plain")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bi_encoder(tmp_path_factory.mktemp("fields") / "dense", dense=7)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"activation_function": "torch.nn.modules.activation.ReLU"}, ""),
        ({"activation_function": "torch.nn.modules.activation.GELU"}, ""),
        ({"activation_function": "torch.nn.modules.linear.Identity", "module_output_name": None}, ""),
        ({"activation_function": ABSENT}, ""),
        ({"activation_function": "torch.nn.modules.activation.SiLU"}, "activation_function"),
        ({"activation_function": "own.Tanh"}, "activation_function"),
        ({"activation_function": None}, "activation_function"),
        ({"in_features": HIDDEN + 1}, "in_features"),
        ({"bias": False}, "bias"),
        ({"module_input_name": "token_embeddings"}, "module_input_name"),
        ({"module_output_name": "elsewhere"}, "module_output_name"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_field_of_a_dense_layer_is_used_or_refused(
    dense: Path, tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    folder = Path(shutil.copytree(dense, tmp_path / "given"))
    change(folder, DENSE, fields)
    if not named:
        require_same(folder)
        return
    with pytest.raises(CheckpointError) as caught:
        written(folder)
    assert str(caught.value).startswith(f"{folder / DENSE}: ")
    assert named in str(caught.value)


@pytest.mark.parametrize("kind", ["own.Pooling", "sentence_transformers.models.LSTM", "../Pooling"])
def test_module_of_unsupported_type_or_position_is_refused(plain: Path, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    modules = json.loads((folder / "modules.json").read_text())
    modules[1] |= {"path": kind} if kind.startswith("..") else {"type": kind}
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=r"modules.json: .*(is not supported|is outside the folder)"):
        written(folder)


def test_field_of_a_module_is_known_or_refused(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["kwargs"] = ["task"]  # of encode(), which passes none by default
    (folder / "modules.json").write_text(json.dumps(modules))
    require_same(folder)
    shutil.rmtree(tmp_path / "given-as-bert")
    modules[1]["surprise"] = 1
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=r"modules.json: the field surprise \(1\) is not supported"):
        written(folder)


def test_folder_saved_again_by_the_installed_version_gives_the_same_vectors(dense: Path, tmp_path: Path) -> None:
    SentenceTransformer(str(dense), device="cpu", local_files_only=True).save(str(tmp_path / "again"))
    assert json.loads((tmp_path / "again" / POOLING).read_text())["pooling_mode"] == "mean"
    assert "base.modules" in (tmp_path / "again" / "modules.json").read_text()
    require_same(tmp_path / "again")


def test_encoder_is_read_from_the_folder_that_its_module_names(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("modules.json", MAIN):
            path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0] | {"path": inner.name}, *modules[1:]]))
    change(inner, SENTENCE, {"do_lower_case": True})
    change(inner, TOKENS, {"do_lower_case": False})
    require_same(folder)
    target = tmp_path / "base"
    write_verified(locate(str(folder), folder, folder), target, adopt=False, max_tokens=128)
    ids = load_tokenizer(target, 128).encode(["RED Lamp", "red lamp"])
    assert ids[0] == ids[1]


def test_pickled_weights_are_not_read(dense: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dense, tmp_path / "given"))
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"2_Dense/model.safetensors: cannot be read"):
        written(folder)
