"""Tokens of benchmark texts are counted with the bundle's own tokenizer, whatever its kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from swiftrec.benchmarks.item_texts import TOKENIZER, Items, TokenCounter, TokenTexts
from swiftrec.benchmarks.microbenchmarks.server_parts import _tokeniser
from swiftrec.benchmarks.recording import FORMAT, Pseudonyms, Recording
from swiftrec.benchmarks.workload import Name, make
from swiftrec.server.catalogue.catalogue import ITEMS
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import BatchRecommendRequest, Event, RecommendRequest
from tests.server.support.bundles import write_manifest

MAX_TOKENS = 64
TITLES = [
    "The Naïve Detective", "a red lamp, round and small", "Midnight in the Old Garden", "Unbelievable Adventures",
    "the green table", "Seven Samurai of the North", "It's a long way home", "an incomprehensible misunderstanding",
]  # fmt: skip


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(TITLES, trainers.WordPieceTrainer(vocab_size=90, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def byte_pairs() -> Tokenizer:
    """As RoBERTa's: a word at the start of a text has other tokens than one behind a space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>"]
    tokenizer.train_from_iterator(TITLES * 3, trainers.BpeTrainer(vocab_size=330, special_tokens=special))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def unigram() -> Tokenizer:
    """As T5's: one special token, at the end."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TITLES * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def letters() -> Tokenizer:
    """Of single characters: no word is one token."""
    tokenizer = Tokenizer(models.BPE(dict(zip("abcdefghijklmnopqrstuvwxyz ", range(27), strict=True)), []))
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


WORKLOADS: dict[str, Callable[[], Tokenizer]] = {"WordPiece": word_piece, "BPE": byte_pairs, "Unigram": unigram}


@pytest.fixture(scope="module", params=[*WORKLOADS])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / request.param, WORKLOADS[request.param]())


def write_bundle(folder: Path, tokenizer: Tokenizer) -> Path:
    """What the workloads read of a bundle."""
    write_manifest(folder, max_tokens=MAX_TOKENS)
    rows = [{"id": str(n), "title": title, "text": title} for n, title in enumerate(TITLES)]
    (folder / ITEMS).write_text("\n".join(map(json.dumps, rows)))
    tokenizer.save(str(folder / TOKENIZER))
    return folder


def counted(folder: Path, text: str) -> int:
    """By the library itself, cut as the server cuts it."""
    return min(MAX_TOKENS, len(Tokenizer.from_file(str(folder / TOKENIZER)).encode(text).ids))


@pytest.mark.parametrize("tokens", [4, 5, 9, 33, MAX_TOKENS])
def test_drawn_texts_have_the_number_of_tokens_that_was_asked_for(folder: Path, tokens: int) -> None:
    texts, random = TokenTexts(Items(folder), TokenCounter(folder)), np.random.default_rng(1)
    drawn = [texts.draw(tokens, random) for _ in range(30)]
    assert [count for _, count in drawn] == [counted(folder, text) for text, _ in drawn]
    assert np.mean([count == tokens for _, count in drawn]) > 0.8
    assert max(abs(count - tokens) for _, count in drawn) <= 2


@pytest.mark.parametrize("name", ["words", "query", "short", "mixed", "hot", "list"])
def test_workloads_say_the_tokens_of_what_they_send(folder: Path, name: Name) -> None:
    requests = make(name, folder, 12 if name != "list" else 1, seed=2)
    texts = [text for payload in requests.payloads for text in bundle_texts(name, payload)]
    assert requests.tokens.sum() == sum(counted(folder, text) for text in texts)


def bundle_texts(name: Name, payload: bytes) -> list[str]:
    if name == "words":
        return list(EncodeRequest.FromString(payload).texts)
    if name == "list":
        return [entry.query for entry in BatchRecommendRequest.FromString(payload).requests]
    return [RecommendRequest.FromString(payload).query]


def test_a_text_that_is_cut_counts_as_it_is_served(folder: Path) -> None:
    counter = TokenCounter(folder)
    long = " ".join(TITLES * 5)
    assert counter.count(long) > MAX_TOKENS
    assert counter.served(long) == MAX_TOKENS


def test_a_replay_says_the_tokens_of_the_bundle_that_it_is_sent_to(folder: Path, tmp_path: Path) -> None:
    """The recording may have been made with another tokenizer, or hold texts as they were."""
    call = RecommendRequest(query="the green table", history=[Event(text="a red lamp"), Event(item_id="1")])
    for keep_texts in (True, False):
        marks = Pseudonyms(lambda _text: 17, keep_texts=keep_texts)
        seen = {"t": 0.0, "requests": marks.call("recommend", call.SerializeToString())}
        path = tmp_path / str(keep_texts)
        path.write_text("\n".join(map(json.dumps, [{"format": FORMAT, "method": "recommend"}, seen])))
        requests = Recording.load(path).requests(folder, seed=1)
        sent = RecommendRequest.FromString(requests.payloads[0])
        assert requests.tokens.tolist() == [counted(folder, sent.query) + counted(folder, sent.history[0].text)]


def test_where_no_word_is_one_token_the_nearest_text_is_drawn_and_its_own_number_is_said(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "letters", letters())
    texts, random = TokenTexts(Items(folder), TokenCounter(folder)), np.random.default_rng(1)
    for tokens in (4, 20):
        text, count = texts.draw(tokens, random)
        assert count == counted(folder, text)
        assert abs(count - tokens) <= 5


def test_a_tokenizer_that_is_faster_than_the_texts_last_is_measured_too(tmp_path: Path) -> None:
    meter: Any = SimpleNamespace(tokenizer=SimpleNamespace(encode=len))
    folder = write_bundle(tmp_path / "bundle", word_piece())
    assert set(_tokeniser(meter, folder, 0.05)) == {"8", "16", "32", "64", "128"}
