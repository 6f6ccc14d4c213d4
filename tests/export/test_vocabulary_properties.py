"""A cut vocabulary spells every text that the whole one could, and its own texts as before, whatever the vocabulary."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors

from swiftrec.export.checkpoints.vocabulary import choose_pieces, cut_tokenizer

_LETTERS, _SPECIAL = "abc", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ALPHABET = (*_LETTERS, *(f"##{letter}" for letter in _LETTERS))
_long = st.text(_LETTERS, min_size=2, max_size=5).flatmap(lambda text: st.sampled_from([text, f"##{text}"]))
_vocabularies = st.lists(_long, unique=True, max_size=30)
_texts = st.lists(st.one_of(st.text(_LETTERS, max_size=9), st.text(max_size=4)), max_size=6).map(" ".join)


def tokenizer(pieces: list[str]) -> Backend:
    """WordPiece as BERT has it, with letters and the given pieces; ids begin with unused ones."""
    numbered = {piece: n for n, piece in enumerate(["[PAD]", "[unused1]", *_SPECIAL[1:], *_ALPHABET, *pieces])}
    made = Backend(models.WordPiece(numbered, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", numbered["[SEP]"]), ("[CLS]", numbered["[CLS]"]))
    made.add_special_tokens([*_SPECIAL])
    return made


def cut(whole: Backend, texts: list[str], most: int, *, without: str = "") -> Backend:
    facts = json.loads(whole.to_str())
    kept = choose_pieces(facts, [whole.encode(text).ids for text in texts], most)
    return Backend.from_str(json.dumps(cut_tokenizer(facts, [n for n in kept if n != whole.token_to_id(without)])))


def spelling(backend: Backend, text: str) -> str:
    """What the pieces say together; unknown words as such."""
    return "".join(token.removeprefix("##") for token in backend.encode(text).tokens)


@given(_vocabularies, st.lists(_texts, max_size=4), _texts, st.integers(0, 40))
def test_any_text_is_spelled_and_the_own_ones_as_before(
    pieces: list[str], own: list[str], other: str, most: int
) -> None:
    whole = tokenizer(pieces)
    small = cut(whole, own, most)
    assert all(small.encode(text).tokens == whole.encode(text).tokens for text in own)
    assert spelling(small, other) == spelling(whole, other)
    assert small.get_vocab_size() <= whole.get_vocab_size()
    assert all(n < small.get_vocab_size() for n in small.encode(other).ids)


def test_a_vocabulary_without_a_letter_would_be_caught() -> None:
    """Negative control."""
    whole = tokenizer(["ab"])
    small = cut(whole, [], 0, without="##b")
    assert spelling(small, "ab") == "[CLS][UNK][SEP]" != spelling(whole, "ab") == "[CLS]ab[SEP]"
