"""Each field of a checkpoint's files, tokenizer included, has the effect that its library gives it, or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers.activations import ACT2FN

from swiftrec.export import gates
from swiftrec.export.checkpoints.checkpoint import locate
from swiftrec.export.checkpoints.families import FUSED_ACTIVATIONS
from swiftrec.export.checkpoints.tokenizer import _as_file
from swiftrec.export.compress.graph_rewriter import count_operators
from swiftrec.export.errors import CheckpointError
from swiftrec.export.evaluate.checkpoint_library import load_in_library
from swiftrec.export.models.encoder import TextEncoder, load_bert, load_tokenizer
from swiftrec.export.stages.onnx import fuse, trace
from swiftrec.server.errors import BundleError
from tests.export.bi_encoders import (
    ABSENT,
    CONFIG,
    MAIN,
    POOLING,
    SENTENCE,
    TEXTS,
    TOKENS,
    TRUNCATION,
    auto_tokenizer,
    bi_encoder,
    change,
    require_same,
    written,
)
from tests.export.checkpoints import HIDDEN, WORDS, add_modules, save_model


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bi_encoder(tmp_path_factory.mktemp("fields") / "plain")


_HONOURED: list[tuple[str, dict[str, Any]]] = [
    (SENTENCE, {"do_lower_case": True}),
    (SENTENCE, {"max_seq_length": 256}),
    (SENTENCE, {"max_seq_length": None}),
    (SENTENCE, {"processing_kwargs": {}, "model_args": {}, "unpad_inputs": False}),
    (MAIN, {"prompts": {"query": "query: "}}),
    (MAIN, {"default_prompt_name": "query", "prompts": {"query": ""}}),
    (MAIN, {"similarity_fn_name": "dot", "__version__": {"sentence_transformers": "2.2.2"}}),
    (POOLING, {"pooling_mode_mean_tokens": ABSENT, "pooling_mode_cls_token": True}),
    (POOLING, {"pooling_mode_mean_tokens": False}),
    (POOLING, {"pooling_mode": "cls"}),
    (POOLING, {"pooling_mode": ["mean"], "include_prompt": False}),
    (POOLING, {"word_embedding_dimension": ABSENT, "embedding_dimension": HIDDEN, "pooling_mode": "mean"}),
    (TOKENS, {"do_lower_case": False}),
    (TOKENS, {"strip_accents": False}),
    (TOKENS, {"do_lower_case": False, "strip_accents": True}),
    (TOKENS, {"tokenize_chinese_chars": False}),
    (TOKENS, {"tokenizer_class": "PreTrainedTokenizerFast"}),
    (TOKENS, {"clean_up_tokenization_spaces": False, "do_basic_tokenize": False, "never_split": ["red"]}),
    (TOKENS, {"additional_special_tokens": ["lamp"]}),
    (TOKENS, {"unk_token": "[MASK]"}),
    ("special_tokens_map.json", {"sep_token": "[MASK]"}),
    (
        "tokenizer.json",
        {"truncation": {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}},
    ),
    (CONFIG, {"hidden_act": "gelu_new"}),
    (CONFIG, {"layer_norm_eps": 0.1}),
    (CONFIG, {"num_hidden_layers": 1}),
    (CONFIG, {"num_attention_heads": 4}),
    (CONFIG, {"pad_token_id": 5}),
    (CONFIG, {"torch_dtype": "float16", "use_cache": False, "output_hidden_states": True}),
    (CONFIG, {"hidden_dropout_prob": 0.9, "attention_probs_dropout_prob": 0.9}),
]


@pytest.mark.parametrize(("file", "fields"), _HONOURED)
def test_supported_field_gives_the_vectors_of_the_library(
    plain: Path, tmp_path: Path, file: str, fields: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    change(folder, file, fields)
    require_same(folder)


_OPTIONS = {"text": {"max_length": 9}}
_REFUSED: list[tuple[str, dict[str, Any]]] = [
    (SENTENCE, {"max_seq_length": 64}),
    (SENTENCE, {"max_seq_length": "x"}),
    (SENTENCE, {"do_lower_case": "yes"}),
    (SENTENCE, {"transformer_task": "fill-mask"}),
    (SENTENCE, {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}}),
    (SENTENCE, {"module_output_name": "sentence_embedding"}),
    (SENTENCE, {"tokenizer_name_or_path": "elsewhere"}),
    *(
        (SENTENCE, {f"{part}_{kind}": _OPTIONS})
        for part in ("model", "tokenizer", "config")
        for kind in ("args", "kwargs")
    ),
    (SENTENCE, {"processor_kwargs": {"do_lower_case": False}}),
    (SENTENCE, {"processing_kwargs": _OPTIONS}),
    (SENTENCE, {"surprise": 1}),
    (MAIN, {"default_prompt_name": "query", "prompts": {"query": "red "}}),
    (MAIN, {"default_prompt_name": "passage"}),
    (MAIN, {"similarity_fn_name": "euclidean"}),
    (MAIN, {"truncate_dim": 8}),
    (MAIN, {"model_type": "CrossEncoder"}),
    (MAIN, {"surprise": 1}),
    *((POOLING, {"pooling_mode": mode}) for mode in ("max", "weightedmean", "lasttoken", "mean_sqrt_len_tokens")),
    (POOLING, {"pooling_mode": ["cls", "mean"]}),
    (POOLING, {"pooling_mode_max_tokens": True}),
    (POOLING, {"word_embedding_dimension": HIDDEN + 1}),
    (POOLING, {"surprise": 1}),
    (POOLING, {"word_embedding_dimension": str(HIDDEN)}),
    (POOLING, {"pooling_mode_mean_tokens": "yes"}),
    (POOLING, {"include_prompt": "yes"}),
    (TOKENS, {"padding_side": "left"}),
    (TOKENS, {"truncation_side": "left"}),
    (TOKENS, {"split_special_tokens": True}),
    (TOKENS, {"model_input_names": ["input_ids"]}),
    (TOKENS, {"model_max_length": "x"}),
    *((CONFIG, {"hidden_act": act}) for act in ("relu", "silu", "gelu_10", "quick_gelu")),
    (CONFIG, {"num_attention_heads": 5}),
    (CONFIG, {"is_decoder": True}),
    (CONFIG, {"is_encoder_decoder": True}),
    (CONFIG, {"add_cross_attention": True}),
    (CONFIG, {"pruned_heads": {"0": [1]}}),
    (CONFIG, {"quantization_config": {"quant_method": "awq"}}),
    (CONFIG, {"auto_map": {"AutoModel": "own.Own"}}),
    (CONFIG, {"chunk_size_feed_forward": 2}),
    (CONFIG, {"position_embedding_type": "relative_key"}),
    (CONFIG, {"vocab_size": 0}),
    (CONFIG, {"layer_norm_eps": "x"}),
]


@pytest.mark.parametrize(("file", "fields"), _REFUSED)
def test_field_that_is_not_supported_is_refused_by_file_and_name(
    plain: Path, tmp_path: Path, file: str, fields: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    change(folder, file, fields)
    with pytest.raises(CheckpointError) as caught:
        written(folder)
    said = str(caught.value)
    assert said.startswith(f"{folder / file}: ")
    assert next(iter(fields)) in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        (CONFIG, {"num_hidden_layers": 3}, "holds no encoder.layer.2.attention"),
        (
            CONFIG,
            {"hidden_size": 64},
            r"word_embeddings.weight should have the shape \(\d+, 64\), the weights have \(\d+, 32\)",
        ),
        (CONFIG, {"max_position_embeddings": 200}, "position_embeddings.weight should have the shape"),
        ("added_tokens.json", {"zebra": 999}, "has id 999|not from the same checkpoint"),
        ("adapter_config.json", {"peft_type": "LORA"}, "adapters are not supported"),
        (CONFIG, {"id2label": {"a": "b"}}, "transformers cannot read it"),
        (TOKENS, {"tokenizer_class": "BertJapaneseTokenizer"}, "no tokenizer"),
    ],
)
def test_contradicting_files_are_refused(
    plain: Path, tmp_path: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    change(folder, file, fields)
    if file == "added_tokens.json":
        (folder / "tokenizer.json").unlink()
        (folder / TOKENS).unlink()
    with pytest.raises(CheckpointError, match=message):
        written(folder)


@pytest.mark.parametrize("family", ["distilbert", "roberta", "xlm-roberta", "electra"])
def test_field_of_another_family_is_ignored(tmp_path: Path, family: str) -> None:
    folder = tmp_path / "given"
    save_model(family, folder)
    add_modules(folder, HIDDEN)
    if family == "distilbert":  # its activation has another name, and its layer norms have a fixed epsilon
        change(folder, CONFIG, {"hidden_act": "relu", "layer_norm_eps": 0.5})
    require_same(folder, WORDS)


@pytest.mark.parametrize("kind", ["classifier", "bi-encoder"])
def test_library_truncates_long_texts_if_the_tokenizer_has_no_length(tmp_path: Path, kind: str) -> None:
    folder, labels = tmp_path / "given", {"id2label": {0: "a", 1: "b"}} if kind == "classifier" else {}
    task = "ForSequenceClassification" if labels else "Model"
    save_model("roberta", folder, task, max_position_embeddings=202, **labels)
    if kind == "bi-encoder":
        add_modules(folder, HIDDEN)
    vectors = load_in_library(folder, locate(str(folder), folder, folder).kind, 128).encode(
        ["red " * 300, "red " * 250]
    )
    assert torch.allclose(vectors[0], vectors[1], atol=1e-5)


def test_unknown_setting_is_detected_by_comparing_vectors(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    change(folder, SENTENCE, {"do_lower_case": True})
    change(folder, TOKENS, {"do_lower_case": False})
    monkeypatch.setattr("swiftrec.export.checkpoints.tokenizer._lower_case", lambda _: None)
    with pytest.raises(CheckpointError, match="gets another vector than by the checkpoint's own library"):
        written(folder)


@pytest.mark.parametrize("activation", ACT2FN)
def test_activation_that_cannot_be_fused_is_refused_on_reading(plain: Path, tmp_path: Path, activation: str) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    change(folder, CONFIG, {"hidden_act": activation})
    if activation in FUSED_ACTIVATIONS:
        target = written(folder)
        encoder, ids = TextEncoder(load_bert(target), 16).eval(), torch.ones(2, 3, dtype=torch.int64)
        trace(encoder, {"input_ids": ids, "attention_mask": ids}, "vectors", tmp_path / "traced.onnx")
        fuse(tmp_path / "traced.onnx", encoder.backbone.config, tmp_path / "fused.onnx")
        assert not gates.failures(gates.fusion(count_operators(tmp_path / "fused.onnx"), 2))
        return
    with pytest.raises(CheckpointError, match=f"hidden_act is '{activation}'; use one of gelu, gelu_python"):
        written(folder)


def test_padding_id_must_equal_that_of_the_tokenizer_when_positions_depend_on_it(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    save_model("roberta", folder)
    change(folder, CONFIG, {"pad_token_id": 0})
    with pytest.raises(CheckpointError, match=r"config.json: pad_token_id is 0, the tokenizer pads with 1: positions"):
        written(folder)


@pytest.mark.parametrize("part", ["truncation", "padding"])
def test_left_side_in_the_tokenizer_file_is_refused(plain: Path, tmp_path: Path, part: str) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    truncation = TRUNCATION | {"direction": "Left"}
    padding = {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "[PAD]"}
    change(folder, "tokenizer.json", {part: {"truncation": truncation, "padding": padding}[part]})
    with pytest.raises(CheckpointError, match=rf"tokenizer.json: {part}_side is 'left', supported is 'right'"):
        written(folder)


def test_token_types_other_than_0_are_refused(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    facts = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for step in facts["post_processor"]["single"]:
        next(iter(step.values()))["type_id"] = 1
    (folder / "tokenizer.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer.json: post_processor gives a text a token type other than 0"):
        written(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("do_lower_case", False),
        ("strip_accents", False),
        ("tokenize_chinese_chars", False),
        ("additional_special_tokens", ["a"]),
    ],
)
def test_ids_are_those_of_auto_tokenizer(plain: Path, tmp_path: Path, field: str, value: object) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    change(folder, TOKENS, {field: value})
    ids = load_tokenizer(written(folder), 128).encode(TEXTS)
    assert ids == auto_tokenizer(folder)(TEXTS, truncation=True, max_length=128)["input_ids"]
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert ids != [raw.encode(text).ids for text in TEXTS]


def test_tokenizer_changed_by_another_file_is_refused_by_the_server(plain: Path) -> None:
    with pytest.raises(BundleError, match=r"tokenizer_config\.json: overrides tokenizer\.json"):
        load_tokenizer(plain, 128)


def test_added_token_is_kept_with_its_blanks(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    tokenizer = auto_tokenizer(folder)
    tokenizer.add_tokens([AddedToken("query", lstrip=True)])
    tokenizer.save_pretrained(folder)
    texts = ["a  query lamp", "query", "Query lamp"]
    assert load_tokenizer(written(folder), 128).encode(texts) == auto_tokenizer(folder)(texts)["input_ids"]


def byte_pairs(folder: Path) -> None:
    """RoBERTa's kind of tokenizer, which tells a word behind a blank from one at the beginning."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(["a red lamp", "Red Lamp red lamp"], trainer)
    ends = {"sep": ("</s>", 2), "cls": ("<s>", 0)}
    tokenizer.post_processor = processors.RobertaProcessing(**ends, add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))


def unigrams(folder: Path) -> None:
    """XLM-R's kind of tokenizer."""
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    letters = [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyzRL\u2581"]
    pieces = [*special, ("\u2581red", -2.0), ("\u2581lamp", -2.5), *letters, ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    template = {"single": "<s> $A </s>", "special_tokens": [("<s>", 0), ("</s>", 2)]}
    tokenizer.post_processor = processors.TemplateProcessing(**template)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize(("family", "save"), [("roberta", byte_pairs), ("xlm-roberta", unigrams)])
def test_tokenizer_of_another_kind_gives_the_same_vectors(
    tmp_path: Path, family: str, save: Callable[[Path], None], prefix: bool
) -> None:
    folder = tmp_path / "given"
    save_model(family, folder, vocab_size=400)
    save(folder)
    change(folder, TOKENS, {"add_prefix_space": prefix})
    add_modules(folder, HIDDEN)
    texts = ["red lamp", "Red  Lamp", " red", "x" * 50, "a-b, c", "\u2581lamp", "r\u00e9d"]
    require_same(folder, texts)
    again = auto_tokenizer(folder)(texts)["input_ids"]
    assert load_tokenizer(folder.with_name("given-as-bert"), 128).encode(texts) == again


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_special_tokens_in_a_text_have_the_ids_of_auto_tokenizer(tmp_path: Path, family: str) -> None:
    folder = tmp_path / "given"
    save_model(family, folder, vocab_size=400)
    if family == "roberta":
        byte_pairs(folder)
    else:
        bi_encoder(folder)
    tokenizer = auto_tokenizer(folder)
    texts = [f"red {token} lamp{token}" for token in tokenizer.all_special_tokens]
    assert load_tokenizer(written(folder), 128).encode(texts) == tokenizer(texts)["input_ids"]


def test_special_token_with_another_id_is_caught(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))

    def changed(*arguments: object) -> str:
        facts = json.loads(_as_file(*arguments))  # type: ignore[arg-type]
        facts["added_tokens"] = [token for token in facts["added_tokens"] if token["content"] != "[MASK]"]
        return json.dumps(facts)

    monkeypatch.setattr("swiftrec.export.checkpoints.tokenizer._as_file", changed)
    with pytest.raises(CheckpointError, match=r"\[MASK\] b' gets other token ids than by AutoTokenizer"):
        written(folder)


def test_tokenizer_that_cannot_encode_is_refused(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    facts = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    facts["model"]["vocab"], facts["added_tokens"] = {"a": 0}, []
    facts["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(facts), encoding="utf-8")
    change(folder, TOKENS, {"unk_token": None, "added_tokens_decoder": {}})
    with pytest.raises(
        CheckpointError, match=r"its tokenizer cannot encode a text \(.*UNK.*\): save it again"
    ) as caught:
        written(folder)
    assert "\n" not in str(caught.value)
