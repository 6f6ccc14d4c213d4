"""An answer does not depend on its batch-mates: alone and in any batch the same vectors and the same top-10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnxruntime.quantization import quantize_dynamic

from swiftrec.server.catalogue.catalogue import VECTORS, Catalogue, Filter
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.networks import EncoderModel, Kind, RankerModel, UserSequence
from swiftrec.server.models.session import open_session
from swiftrec.server.models.tokenizer import Tokenizer

_WORDS = st.sampled_from(
    ["a", "good", "western", "film", "toys", "space", "love", "murder", "zebra", "1995", "Casablanca"]
)
_TEXT = st.lists(_WORDS, min_size=1, max_size=60).map(" ".join)


def spread(model: EncoderModel, tokenizer: Tokenizer, text: str, mates: list[str]) -> float:
    """Largest difference of the text's vector, alone against beside its mates."""
    rows = tokenizer.encode([text, *mates])
    return float(np.abs(model.run(rows[:1])[0] - model.run(rows)[0]).max())


def test_vector_is_the_same_alone_and_in_any_batch(bundle: Bundle) -> None:
    tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", bundle.manifest.max_tokens)
    models = {name: EncoderModel(open_session(bundle.encoder("cpu", name))) for name in bundle.manifest.variants}

    @settings(max_examples=40, deadline=None)
    @given(_TEXT, st.lists(_TEXT, min_size=1, max_size=15))
    def holds(text: str, mates: list[str]) -> None:
        for name, model in models.items():
            assert spread(model, tokenizer, text, mates) <= 1e-4, name

    holds()


def test_dynamic_int8_is_caught(bundle: Bundle, tmp_path: Path) -> None:
    """Negative control: a quantisation that does depend on the batch must show."""
    path = tmp_path / "dynamic.onnx"
    source = bundle.encoder("cpu", "bert3-fp32")  # a static student has nothing that would change
    quantize_dynamic(source, path, extra_options={"DefaultTensorType": TensorProto.FLOAT})
    tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", bundle.manifest.max_tokens)
    mates = ["zebra jazz murder " * 10, "love", "space toys 1995"]
    assert spread(EncoderModel(open_session(path)), tokenizer, "a good western", mates) > 1e-4


def test_top10_is_the_same_alone_and_in_any_batch(bundle: Bundle) -> None:
    loaded = Catalogue.load(bundle.folder, bundle.manifest.sentence_dimensions)
    catalogue = Catalogue(loaded.items, np.load(bundle.folder / VECTORS))  # the ranker alone, as the test runs it
    model = RankerModel(open_session(bundle.folder / "ranker.onnx"), bundle.manifest.dimensions)
    ids = st.lists(st.sampled_from([item.id for item in catalogue.items]), min_size=1, max_size=40)
    everything = catalogue.mask(Filter(), [])

    def sequence(history: list[str]) -> UserSequence:
        vectors = [catalogue.event_vector(n) for i in history if (n := catalogue.position(i)) is not None]
        return UserSequence(vectors, [Kind.ITEM] * len(vectors))

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(ids, st.lists(ids, min_size=1, max_size=12))
    def holds(history: list[str], mates: list[list[str]]) -> None:
        alone = model.run([sequence(history)])[0]
        beside = model.run([sequence(history), *map(sequence, mates)])[0]
        assert np.abs(alone - beside).max() <= 1e-4
        first, second = (catalogue.search(user, everything, 10) for user in (alone, beside))
        assert [item.id for item, _ in first] == [item.id for item, _ in second]

    holds()
