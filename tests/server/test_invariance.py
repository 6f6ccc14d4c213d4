"""Responses do not depend on the other requests of a batch, nor token ids on the cache of words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnxruntime.quantization import quantize_dynamic
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from swiftrec.server.catalogue.catalogue import VECTORS, Catalogue
from swiftrec.server.domain import Filter
from swiftrec.server.models import tokenizer as module
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.networks import EncoderModel, EventKind, RankerModel, UserSequence
from swiftrec.server.models.session import open_session
from swiftrec.server.models.tokenizer import Tokenizer, WordPieceCache

_WORDS = st.sampled_from(
    ["a", "good", "western", "film", "toys", "space", "love", "murder", "zebra", "1995", "Casablanca"]
)


_TEXT = st.lists(_WORDS, min_size=1, max_size=60).map(" ".join)


def spread(model: EncoderModel, tokenizer: Tokenizer, text: str, mates: list[str]) -> float:
    """Largest difference of the text's vector, alone against beside its mates."""
    rows = tokenizer.encode([text, *mates])
    return float(np.abs(model.run(rows[:1])[0] - model.run(rows)[0]).max())


def test_vector_does_not_depend_on_the_batch(bundle: Bundle) -> None:
    tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", bundle.manifest.max_tokens)
    models = {name: EncoderModel(open_session(bundle.encoder("cpu", name))) for name in bundle.manifest.variants}

    @settings(max_examples=40, deadline=None)
    @given(_TEXT, st.lists(_TEXT, min_size=1, max_size=15))
    def holds(text: str, mates: list[str]) -> None:
        for name, model in models.items():
            assert spread(model, tokenizer, text, mates) <= 1e-4, name

    holds()


def test_dynamic_int8_is_detected(bundle: Bundle, tmp_path: Path) -> None:
    """Negative control: a quantisation that does depend on the batch must show."""
    path = tmp_path / "dynamic.onnx"
    source = bundle.encoder("cpu", "bert3-fp32")  # a static student has nothing that would change
    quantize_dynamic(source, path, extra_options={"DefaultTensorType": TensorProto.FLOAT})
    tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", bundle.manifest.max_tokens)
    mates = ["zebra jazz murder " * 10, "love", "space toys 1995"]
    assert spread(EncoderModel(open_session(path)), tokenizer, "a good western", mates) > 1e-4


def test_top10_does_not_depend_on_the_batch(bundle: Bundle) -> None:
    loaded = Catalogue.load(bundle.folder, bundle.manifest.sentence_dimensions)
    catalogue = Catalogue(loaded.items, np.load(bundle.folder / VECTORS))  # the ranker alone, as the test runs it
    model = RankerModel(open_session(bundle.folder / "ranker.onnx"), bundle.manifest.dimensions)
    ids = st.lists(st.sampled_from([item.id for item in catalogue.items]), min_size=1, max_size=40)
    everything = catalogue.resolve_filter(Filter(), [])

    def sequence(history: list[str]) -> UserSequence:
        vectors = [catalogue.event_vector(n) for i in history if (n := catalogue.position(i)) is not None]
        return UserSequence(vectors, [EventKind.ITEM] * len(vectors))

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(ids, st.lists(ids, min_size=1, max_size=12))
    def holds(history: list[str], mates: list[list[str]]) -> None:
        alone = model.run([sequence(history)])[0]
        beside = model.run([sequence(history), *map(sequence, mates)])[0]
        assert np.abs(alone - beside).max() <= 1e-4
        first, second = (catalogue.search(user, everything, 10) for user in (alone, beside))
        assert [item.id for item, _ in first] == [item.id for item, _ in second]

    holds()


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
def test_cached_words_give_the_token_ids_of_the_text(bundle: Bundle, max_tokens: int) -> None:
    backend = alone(bundle, max_tokens)
    tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", max_tokens)

    @settings(max_examples=1_000, deadline=None)
    @given(_texts.map(" ".join))
    def holds(text: str) -> None:
        assert tokenizer.encode([text]) == tokenizer.encode([text]) == [backend.encode(text).ids]  # learned by then

    holds()


def test_tokenizer_with_context_dependent_words_is_detected(bundle: Bundle) -> None:
    """Negative control: an added token with a space in it, which `fits` refuses, gives other ids."""
    backend = alone(bundle, 512)
    backend.add_tokens(["toy story"])
    assert not WordPieceCache.fits(backend)
    words = WordPieceCache(backend, 512)
    for known in ("toy", "story"):
        words.encode(known)
    assert words.encode("toy story") != backend.encode("toy story").ids


def test_word_cache_is_bounded(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_WORDS", 8)
    backend = alone(bundle, _SHORT)
    cache = WordPieceCache(backend, _SHORT)
    for n in range(100):
        text = f"word{n} other{n} {'x' * 200}"
        assert cache.encode(text) == backend.encode(text).ids
        assert len(cache._pieces) <= 8
        assert all(len(word) <= 24 for word in cache._pieces)


def test_tokenizers_of_other_types_do_not_use_the_word_cache(bundle: Bundle) -> None:
    backend = alone(bundle, _SHORT)
    assert WordPieceCache.fits(backend)
    assert not WordPieceCache.fits(Backend(BPE()))
    assert not WordPieceCache.fits(Backend.from_str(backend.to_str().replace('"lstrip":false', '"lstrip":true', 1)))
