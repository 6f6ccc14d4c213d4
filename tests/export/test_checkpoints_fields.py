"""Each field that sentence-transformers and transformers read gives the same vectors here, or is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.activations import ACT2FN

from swiftrec.export import gates
from swiftrec.export.checkpoints.checkpoint import locate
from swiftrec.export.checkpoints.families import FUSED_ACTIVATIONS
from swiftrec.export.checkpoints.original import open_original
from swiftrec.export.compress.graph_rewriter import count_operators
from swiftrec.export.errors import CheckpointError
from swiftrec.export.models.encoder import TextEncoder, load_trunk
from swiftrec.export.stages.onnx import fuse, trace
from tests.export.bi_encoders import (
    ABSENT,
    CONFIG,
    MAIN,
    POOLING,
    SENTENCE,
    TOKENS,
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
def test_field_that_is_honoured_gives_the_vectors_of_its_library(
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
            r"word_embeddings.weight has the shape \(\d+, 64\), the weights have \(\d+, 32\)",
        ),
        (CONFIG, {"max_position_embeddings": 200}, "position_embeddings.weight has the shape"),
        ("added_tokens.json", {"zebra": 999}, "has id 999|not of one checkpoint"),
        ("adapter_config.json", {"peft_type": "LORA"}, "adapters are not supported"),
        (CONFIG, {"id2label": {"a": "b"}}, "transformers cannot read it"),
        (TOKENS, {"tokenizer_class": "BertJapaneseTokenizer"}, "no tokenizer"),
    ],
)
def test_what_contradicts_itself_is_refused(
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
def test_field_that_another_family_reads_is_not_read(tmp_path: Path, family: str) -> None:
    folder = tmp_path / "given"
    save_model(family, folder)
    add_modules(folder, HIDDEN)
    if family == "distilbert":  # its activation has another name, and its layer norms have a fixed epsilon
        change(folder, CONFIG, {"hidden_act": "relu", "layer_norm_eps": 0.5})
    require_same(folder, WORDS)


@pytest.mark.parametrize("kind", ["classifier", "bi-encoder"])
def test_library_cuts_long_texts_where_the_tokenizer_knows_no_length(tmp_path: Path, kind: str) -> None:
    folder, labels = tmp_path / "given", {"id2label": {0: "a", 1: "b"}} if kind == "classifier" else {}
    task = "ForSequenceClassification" if labels else "Model"
    save_model("roberta", folder, task, max_position_embeddings=202, **labels)
    if kind == "bi-encoder":
        add_modules(folder, HIDDEN)
    found = open_original(folder, locate(str(folder), folder, folder).kind, 128).encode(["red " * 300, "red " * 250])
    assert torch.allclose(found[0], found[1], atol=1e-5)


def test_setting_that_no_table_names_is_caught_by_its_vectors(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    change(folder, SENTENCE, {"do_lower_case": True})
    change(folder, TOKENS, {"do_lower_case": False})
    monkeypatch.setattr("swiftrec.export.checkpoints.tokenizer._lower_case", lambda _: None)
    with pytest.raises(CheckpointError, match="gets another vector here than by the library"):
        written(folder)


@pytest.mark.parametrize("activation", ACT2FN)
def test_activation_is_one_that_is_fused_or_refused_when_it_is_read(
    plain: Path, tmp_path: Path, activation: str
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    change(folder, CONFIG, {"hidden_act": activation})
    if activation in FUSED_ACTIVATIONS:
        out = written(folder)
        encoder, ids = TextEncoder(load_trunk(out), 16).eval(), torch.ones(2, 3, dtype=torch.int64)
        trace(encoder, {"input_ids": ids, "attention_mask": ids}, "vectors", tmp_path / "traced.onnx")
        fuse(tmp_path / "traced.onnx", encoder.trunk.config, tmp_path / "fused.onnx")
        assert not gates.failures(gates.fusion(count_operators(tmp_path / "fused.onnx"), 2))
        return
    with pytest.raises(CheckpointError, match=f"hidden_act is '{activation}'; use one of gelu, gelu_python"):
        written(folder)
