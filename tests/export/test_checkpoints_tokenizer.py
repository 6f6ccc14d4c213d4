"""A checkpoint's tokenizer gives AutoTokenizer's ids here, whatever its kind, or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from swiftrec.export.checkpoints.tokenizer import _as_file
from swiftrec.export.errors import CheckpointError
from swiftrec.export.models.encoder import load_tokenizer
from swiftrec.server.errors import BundleError
from tests.export.bi_encoders import (
    CONFIG,
    TEXTS,
    TOKENS,
    TRUNCATION,
    auto_tokenizer,
    bi_encoder,
    change,
    require_same,
    written,
)
from tests.export.checkpoints import HIDDEN, add_modules, save_model


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bi_encoder(tmp_path_factory.mktemp("fields") / "plain")


def test_padding_that_moves_positions_must_be_one_id(tmp_path: Path) -> None:
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


def test_tokenizer_that_another_file_changes_is_refused_by_the_server(plain: Path) -> None:
    with pytest.raises(BundleError, match=r"tokenizer_config\.json: changes what tokenizer\.json says"):
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
    with pytest.raises(CheckpointError, match=r"\[MASK\] b' has other token ids here than by AutoTokenizer"):
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
