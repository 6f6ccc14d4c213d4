"""Words put together are what the tokenizer makes of the whole text, whatever the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from swiftrec.server.models import tokenizer as module
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.tokenizer import Tokenizer, WordPieceCache

_SHORT = 16
_PLAIN = ["Toy", "Story", "(1995)", "don't", "unbelievably-long", "x" * 120, "...", "42"]
_WHOLE = ["[SEP]", "[MASK]", "a[CLS]b", "na\u00efve", "\u4e2d\u6587", "\u0130stanbul", "\u03a3\u0391\u03a3", "e\u0301"]
_DROPPED = ["\u00ad", "\u200d", "\t", "\n", "\x0b", "\x1f", "\u00a0", ""]
_texts = st.lists(st.one_of(st.sampled_from([*_PLAIN, *_WHOLE, *_DROPPED]), st.text(max_size=6)), max_size=24)


def alone(bundle: Bundle, max_tokens: int) -> Backend:
    """The library alone, as the bundle's file has it."""
    backend = Backend.from_file(str(bundle.folder / "tokenizer.json"))
    backend.no_padding()
    backend.enable_truncation(max_tokens)
    return backend


@pytest.mark.parametrize("max_tokens", [_SHORT, 512])
def test_words_give_the_ids_of_the_whole_text(bundle: Bundle, max_tokens: int) -> None:
    backend = alone(bundle, max_tokens)
    tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", max_tokens)

    @settings(max_examples=1_000, deadline=None)
    @given(_texts.map(" ".join))
    def holds(text: str) -> None:
        assert tokenizer.encode([text]) == tokenizer.encode([text]) == [backend.encode(text).ids]  # learned by then

    holds()


def test_a_tokenizer_whose_words_do_not_stand_by_themselves_would_be_caught(bundle: Bundle) -> None:
    """Negative control: an added token with a space in it, which `fits` refuses, gives other ids."""
    backend = alone(bundle, 512)
    backend.add_tokens(["toy story"])
    assert not WordPieceCache.fits(backend)
    words = WordPieceCache(backend, 512)
    for known in ("toy", "story"):
        words.encode(known)
    assert words.encode("toy story") != backend.encode("toy story").ids


def test_words_are_kept_within_bounds(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_WORDS", 8)
    backend = alone(bundle, _SHORT)
    kept = WordPieceCache(backend, _SHORT)
    for n in range(100):
        text = f"word{n} other{n} {'x' * 200}"
        assert kept.encode(text) == backend.encode(text).ids
        assert len(kept._pieces) <= 8
        assert all(len(word) <= 24 for word in kept._pieces)


def test_tokenizers_of_another_kind_do_it_alone(bundle: Bundle) -> None:
    backend = alone(bundle, _SHORT)
    assert WordPieceCache.fits(backend)
    assert not WordPieceCache.fits(Backend(BPE()))
    assert not WordPieceCache.fits(Backend.from_str(backend.to_str().replace('"lstrip":false', '"lstrip":true', 1)))
