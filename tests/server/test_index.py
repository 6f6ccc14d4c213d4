"""The approximate index, and the users that it is trained on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from swiftrec.benchmarks.catalogue.synthetic import around
from swiftrec.export.blend.words import make_words
from swiftrec.server.arrays import Vectors
from swiftrec.server.catalogue import exact
from swiftrec.server.catalogue.approximate import ApproximateIndex, nprobe_for
from swiftrec.server.catalogue.blend import EXTRA_FEATURES, Blend, BlendRow, Scoring, Weights, item_vectors
from swiftrec.server.catalogue.catalogue import VECTORS, Catalogue, IndexMode
from swiftrec.server.catalogue.exact import CandidateSet
from swiftrec.server.catalogue.filters import AttributeIndex
from swiftrec.server.catalogue.items import ItemTable
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.catalogue.sparse import NO_BOOSTS, Boosts
from swiftrec.server.domain import AttributeValues, Filter, Item
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import RANKER, SENTENCES, Bundle
from swiftrec.server.models.networks import EncoderModel, RankerModel, UserSequence
from swiftrec.server.models.session import open_session
from swiftrec.server.models.tokenizer import Tokenizer
from swiftrec.server.pipeline.index_training import index_training_users
from tests.export import tables

_ITEMS, _FEW = 20_000, 700


_SHARES = {"half": 2, "tenth": 10, "few": 100}


_SIZES = st.sampled_from([1, 2, 40, _FEW])


@cache
def small(items: int) -> Catalogue:
    """A catalogue with ties, an item in each share, and an index whatever its size."""
    random = np.random.default_rng(items)
    rows = [
        Item(str(n), "", "", {"in": [name for name, step in _SHARES.items() if n % step == 0]}, n) for n in range(items)
    ]
    vectors = random.standard_normal((-(-items // 2), 16), dtype=np.float32)[np.arange(items) // 2]
    catalogue = Catalogue(rows, vectors)
    catalogue.index("approximate", lambda: random.standard_normal((64, 16), dtype=np.float32), exact_below=0)
    return catalogue


def random_boosts(items: int, number: int, random: np.random.Generator) -> Boosts:
    """At most `number` of either sign, some of them larger than any product of vectors."""
    positions = np.sort(random.choice(items, min(items, number), replace=False))
    scale = random.choice([0.1, 1.0, 50.0], len(positions))
    return Boosts(positions, (scale * random.standard_normal(len(positions))).astype(np.float32))


@cache
def plain(items: int) -> Catalogue:
    """The same without an index."""
    indexed = small(items)
    return Catalogue(indexed.items, np.array([indexed.event_vector(n) for n in range(items)]))


_VALUES = st.lists(st.sampled_from([*_SHARES, "none"]), min_size=1, max_size=2).map(
    lambda values: (AttributeValues("in", tuple(values)),)
)


_POSITIONS = st.sets(st.integers(0, _FEW), max_size=_FEW)


_IDS = _POSITIONS.map(lambda numbers: frozenset(map(str, numbers)))


_BOOSTED = st.sampled_from([0, 1, 5, 300])


_CONDITIONS = st.builds(
    Filter,
    allowed=st.just(frozenset[str]()) | _IDS,
    denied=_IDS,
    any_of=st.just(()) | _VALUES,
    all_of=st.just(()) | _VALUES,
    none_of=st.just(()) | _VALUES,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_SIZES, st.integers(0, 2**32 - 1), st.integers(1, 1_000), _CONDITIONS, _POSITIONS, _BOOSTED)
def test_results_have_no_denied_item_and_are_complete(
    items: int, seed: int, k: int, conditions: Filter, seen: set[int], boosted: int
) -> None:
    seen = {n for n in seen if n < items}
    random = np.random.default_rng(seed)
    user, boosts = random.standard_normal(16, dtype=np.float32), random_boosts(items, boosted, random)
    actual = small(items).search(user, small(items).resolve_filter(conditions, seen), k, boosts)
    expected = plain(items).search(user, plain(items).resolve_filter(conditions, seen), k, boosts)
    allowed = {str(n) for n in plain(items).resolve_filter(conditions, seen).positions()}
    ids = [item.id for item, _ in actual]
    assert len(actual) == len(expected) == min(k, len(allowed))
    assert {*ids} <= allowed
    assert len({*ids}) == len(ids)
    assert actual == sorted(actual, key=lambda pair: (-pair[1], int(pair[0].id)))
    assert all(score == best for (item, score), (own, best) in zip(actual, expected, strict=True) if item.id == own.id)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([1, 2, 40, _FEW]),
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(1, 60), _CONDITIONS | st.just(Filter()), _POSITIONS, _BOOSTED), max_size=40),
    st.sampled_from([0.0, 1e-30, 1.0, 1e20]),
)
def test_batched_search_equals_single_searches(
    items: int, seed: int, requested: list[tuple[int, Filter, set[int], int]], length: float
) -> None:
    """To the bit, so that an answer never depends on who else is in the list."""
    random, catalogue = np.random.default_rng(seed), plain(items)
    users = np.float32(length) * random.standard_normal((len(requested), 16), dtype=np.float32)
    allowed = [
        catalogue.resolve_filter(conditions, {n for n in seen if n < items}) for _, conditions, seen, _ in requested
    ]
    sizes, boosts = [k for k, *_ in requested], [random_boosts(items, boosted, random) for *_, boosted in requested]
    alone = [catalogue.search(*entry) for entry in zip(users, allowed, sizes, boosts, strict=True)]
    assert catalogue.search_many(list(users), allowed, sizes, boosts) == alone


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_SIZES, st.integers(0, 2**32 - 1), st.integers(1, 60), _CONDITIONS | st.just(Filter()), _POSITIONS, _BOOSTED)
def test_exact_search_is_the_sum_over_all_items(
    items: int, seed: int, k: int, conditions: Filter, seen: set[int], boosted: int
) -> None:
    random, catalogue = np.random.default_rng(seed), plain(items)
    user, boosts = random.standard_normal(16, dtype=np.float32), random_boosts(items, boosted, random)
    allowed = catalogue.resolve_filter(conditions, {n for n in seen if n < items})
    added = dict(zip(boosts.positions.tolist(), boosts.values, strict=True))
    score = {
        n: np.vecdot(catalogue.event_vector(n), user) + added.get(n, np.float32(0))
        for n in allowed.positions().tolist()
    }
    expected = sorted(score, key=lambda n: (-score[n], n))[:k]
    actual = catalogue.search(user, allowed, k, boosts)
    assert [(int(item.id), got) for item, got in actual] == [(n, float(score[n])) for n in expected]


def test_candidates_of_the_approximate_search_are_within_its_error() -> None:
    """Items closer to each other than a product of matrices can tell: without the margin the wrong ones are found."""
    random = np.random.default_rng(5)
    vectors = (random.standard_normal(64) + 1e-7 * random.standard_normal((5_000, 64))).astype(np.float32)
    users = random.standard_normal((8, 64), dtype=np.float32)
    everything = CandidateSet(5_000, 5_000, None, np.empty(0, dtype=np.int64), 0)
    actual = exact.search_many(vectors, 100.0, users, [everything.denied] * 8, 10, [NO_BOOSTS] * 8)
    assert actual == [None] * 8  # all are candidates: nothing is gained
    rough = np.argsort(-(users @ vectors.T), axis=1)[:, :10]
    best = [exact.search(vectors, user, everything, 10)[0] for user in users]
    assert any(set(entry) != set(other) for entry, other in zip(rough.tolist(), np.array(best).tolist(), strict=True))


def test_user_with_equal_scores_gets_no_items_of_other_users() -> None:
    catalogue, random = plain(_FEW), np.random.default_rng(1)
    users = [np.zeros(16, dtype=np.float32), *random.standard_normal((4, 16), dtype=np.float32)]
    everything = catalogue.resolve_filter(Filter(), ())
    actual = catalogue.search_many(users, [everything] * 5, [3] * 5, [NO_BOOSTS] * 5)
    assert [item.id for item, _ in actual[0]] == ["0", "1", "2"]
    assert actual == [catalogue.search(user, everything, 3) for user in users]


@pytest.mark.parametrize("of_items", [1e-44, 1e-23, 1e-3, 1e18, 3e19, 1e37])
@pytest.mark.parametrize("of_users", [1e-15, 1.0, 1e15])
def test_results_are_complete_without_denied_items_for_every_length(of_items: float, of_users: float) -> None:
    random = np.random.default_rng(3)
    with np.errstate(all="ignore"):
        vectors = (random.standard_normal((50, 16)) * of_items).astype(np.float32)[np.arange(400) % 50]
        users = (random.standard_normal((8, 16)) * of_users).astype(np.float32)
        catalogue = Catalogue([Item(str(n), "", "", {}, n) for n in range(400)], vectors)
        allowed = [catalogue.resolve_filter(Filter(), range(n, 200)) for n in range(8)]
        alone = [catalogue.search(user, part, 10) for user, part in zip(users, allowed, strict=True)]
        actual = catalogue.search_many(list(users), allowed, [10] * 8, [NO_BOOSTS] * 8)
    assert [[item.id for item, _ in entry] for entry in actual] == [[item.id for item, _ in entry] for entry in alone]


@dataclass(frozen=True, slots=True)
class Many:
    """A realistic catalogue, real user vectors that the index was not made for, and the index."""

    vectors: Vectors
    attributes: AttributeIndex
    users: Vectors
    index: ApproximateIndex

    def allowed(self, share: str) -> CandidateSet:
        narrows = (AttributeValues("in", (share,)),) if share in _SHARES else ()
        return self.attributes.allow(Filter(any_of=narrows), (), ())

    def recall(self, index: ApproximateIndex, share: str, depth: int = 100) -> float:
        """Of the best `depth`."""
        allowed, hits = self.allowed(share), []
        for user in self.users:
            best, _ = exact.search(self.vectors, user, allowed, depth)
            actual, _ = index.search(user, allowed, depth)
            hits.append(len({*best.tolist()} & {*actual.tolist()}) / len(best))
        return float(np.mean(hits))


@pytest.fixture(scope="module")
def many(bundle: Bundle) -> Many:
    random = np.random.default_rng(3)
    real = ItemTable.load(bundle.folder)
    facts, bases = bundle.manifest, random.integers(len(real), size=_ITEMS)
    ranker_half, sentences = (around(np.load(bundle.folder / name), bases, random) for name in (VECTORS, SENTENCES))
    sentences /= np.linalg.norm(sentences, axis=1, keepdims=True)
    counts = np.array([item.popularity for item in real])[bases]
    drawn = random.random(_ITEMS)
    attributes = AttributeIndex({"in": [name for name, step in _SHARES.items() if entry < 1 / step]} for entry in drawn)
    texts = [(real[base].title, real[base].text) for base in bases.tolist()]
    items = [Item(str(n), *texts[n], {}, count) for n, count in enumerate(counts.tolist())]
    ranker = RankerModel(open_session(bundle.folder / RANKER), facts.dimensions)
    scoring = Scoring(Blend.read(facts.blend), Memory.empty(_ITEMS), make_words([], []), _ITEMS)
    encoder = EncoderModel(open_session(bundle.encoder("cpu", None)))
    tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", facts.max_tokens)

    def encode(texts: list[str]) -> list[Vectors]:
        return encoder.run(tokenizer.encode(texts))

    users = index_training_users(ranker, encode, Catalogue(items, ranker_half, sentences), scoring, facts.max_history)
    vectors = item_vectors(ranker_half, sentences, counts)
    return Many(vectors, attributes, users[:200], ApproximateIndex.build(vectors, users[200:]))


@pytest.mark.parametrize("depth", [1, 10, 30, 100])
@pytest.mark.parametrize("share", ["all", "half", "tenth"])
def test_recall_is_at_least_99_percent(many: Many, share: str, depth: int) -> None:
    assert many.recall(many.index, share, depth) >= 0.99


@pytest.mark.parametrize("denied", [20, 90])
@pytest.mark.parametrize("share", ["all", "tenth"])
def test_recall_is_kept_when_the_best_items_are_denied(many: Many, share: str, denied: int) -> None:
    """What a user has seen, or a page before, is the best of all: the next ten lie below it."""
    narrows = (AttributeValues("in", (share,)),) if share in _SHARES else ()
    hits = []
    for user in many.users:
        best, _ = exact.search(many.vectors, user, many.allowed(share), denied + 10)
        allowed = many.attributes.allow(Filter(any_of=narrows), (), best[:denied].tolist())
        assert allowed.denied_count == denied
        actual, _ = many.index.search(user, allowed, 10)
        hits.append(len({*best[denied:].tolist()} & {*actual.tolist()}) / 10)
    assert np.mean(hits) >= 0.99


@pytest.mark.parametrize("pushed", [90, 400])
@pytest.mark.parametrize("share", ["all", "tenth"])
def test_recall_is_kept_when_the_best_items_are_lowered(many: Many, share: str, pushed: int) -> None:
    """Boosts may be negative: then what the vectors say alone are not the candidates."""
    allowed, hits = many.allowed(share), []
    for user in many.users:
        best = np.sort(exact.search(many.vectors, user, allowed, pushed)[0])
        boosts = Boosts(best, np.full(len(best), -100, dtype=np.float32))
        expected = exact.search(many.vectors, user, allowed, 10, boosts)[0]
        actual, _ = many.index.search(user, allowed, 10, boosts)
        hits.append(len({*expected.tolist()} & {*actual.tolist()}) / 10)
    assert np.mean(hits) >= 0.99


@pytest.mark.parametrize("boosted", [50, 5_000])
@pytest.mark.parametrize("share", ["all", "tenth"])
def test_recall_of_the_whole_score_is_at_least_99_percent(many: Many, share: str, boosted: int) -> None:
    """As memory and words add: much to few items, little to many, and the same to some."""
    random, allowed, hits = np.random.default_rng(6), many.allowed(share), []
    for user in many.users:
        spread = float(np.std(many.vectors[:1_000] @ user))
        positions = np.sort(random.choice(_ITEMS, boosted, replace=False))
        values = np.round(spread * random.exponential(size=boosted), 1).astype(np.float32)
        boosts = Boosts(positions, values)
        expected = exact.search(many.vectors, user, allowed, 10, boosts)[0]
        actual = many.index.search(user, allowed, 10, boosts)[0]
        hits.append(len({*expected.tolist()} & {*actual.tolist()}) / 10)
    assert np.mean(hits) >= 0.99


@given(
    st.lists(st.integers(1, 10_000), min_size=3, max_size=3).map(sorted),
    st.lists(st.floats(1, 1e6), min_size=2).map(sorted),
)
def test_deeper_search_never_probes_fewer_lists(reach: list[int], depths: list[float]) -> None:
    lists = [nprobe_for(depth, reach) for depth in depths]
    assert lists == sorted(lists)
    assert [nprobe_for(depth, reach) for depth in (10, 100, 1_000)] == pytest.approx(reach, abs=1)


def test_index_that_probes_too_few_lists_is_detected(many: Many) -> None:
    """Negative control: the recall test must see an index that hardly looks."""
    index = many.index
    hasty = ApproximateIndex(many.vectors, index._metric, index._lists, nprobe_by_depth=(4, 4, 4))
    assert many.recall(hasty, "all") < 0.9


def test_index_trained_for_other_users_is_detected(many: Many) -> None:
    """Negative control: what is measured on the sample must be measured on users like those who come."""
    random = np.random.default_rng(5)
    strangers = random.standard_normal((64, 1)) * random.standard_normal(many.vectors.shape[1])
    index = ApproximateIndex.build(many.vectors, strangers.astype(np.float32))
    assert many.recall(index, "all") < 0.99


def test_result_does_not_depend_on_other_requests(many: Many) -> None:
    def ask(n: int) -> tuple[list[int], list[float]]:
        positions, scores = many.index.search(many.users[n % 50], many.allowed("half" if n % 3 else "all"), 20)
        return positions.tolist(), scores.tolist()

    alone = [ask(n) for n in range(150)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(150))) == alone


@pytest.mark.parametrize(("mode", "items", "is_made"), [("auto", 40, False), ("exact", 40, False), ("auto", 80, True)])
def test_index_is_built_for_large_catalogues_or_on_request(
    monkeypatch: pytest.MonkeyPatch, mode: IndexMode, items: int, is_made: bool
) -> None:
    monkeypatch.setattr("swiftrec.server.catalogue.catalogue.SWITCH_OVER", 80)
    rows = [Item(str(n), "", "", {}, 0) for n in range(items)]
    catalogue = Catalogue(rows, np.random.default_rng(0).standard_normal((items, 16), dtype=np.float32))
    index = catalogue.index(mode, lambda: np.ones((8, 16), dtype=np.float32))
    assert (index is not None) == is_made


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_index_of_users_without_numbers_is_refused(value: float) -> None:
    catalogue = Catalogue([Item(str(n), "", "", {}, 0) for n in range(300)], np.ones((300, 16), dtype=np.float32))
    with pytest.raises(BundleError, match=r"NaN or infinity, so no index can be built: export it again"):
        catalogue.index("approximate", lambda: np.full((8, 16), value, dtype=np.float32))


def test_same_vectors_give_the_same_index(many: Many) -> None:
    random = np.random.default_rng(1)
    sample = random.standard_normal((64, many.vectors.shape[1]), dtype=np.float32)
    first, second = (ApproximateIndex.build(many.vectors[:3_000], sample) for _ in range(2))
    everything = AttributeIndex([{}] * 3_000).allow(Filter(), (), ())
    for user in many.users:
        assert first.search(user, everything, 50)[0].tolist() == second.search(user, everything, 50)[0].tolist()


_ITEMS_SAMPLE_USERS, _RANKER, _SENTENCE = 60, 5, 4


_TITLES = [f"Film number{n} (1999)" for n in range(_ITEMS_SAMPLE_USERS)]


_KINDS = {"none": 1.0, "description": 2.0, "title": 3.0}  # and what the popularity weighs


class FakeRanker:
    """A user is the sum of the events."""

    def run(self, rows: list[UserSequence]) -> list[NDArray[np.float32]]:
        return [np.add.reduce([np.array(vector) for vector in row.vectors]) for row in rows]


def test_training_users_include_every_kind_of_request() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(_ITEMS_SAMPLE_USERS, _RANKER)).astype(np.float32)
    sentences = random.normal(size=(_ITEMS_SAMPLE_USERS, _SENTENCE)).astype(np.float32)
    items = [Item(str(n), title, f"{title} a drama of old days", {}, n) for n, title in enumerate(_TITLES)]
    rows = [
        BlendRow(cast(Any, query), events, Weights(ranker=1, popularity=kind, newcomer=float(events > 0), events=0.1))
        for query, kind in _KINDS.items()
        for events in (0, 1)
    ]
    words = tables.scoring(_TITLES).words
    scoring, encoded = Scoring(Blend(rows), Memory.empty(_ITEMS_SAMPLE_USERS), words, _ITEMS_SAMPLE_USERS), list[str]()

    def encode(texts: list[str]) -> list[NDArray[np.float32]]:
        encoded.extend(texts)
        return [np.ones(_RANKER + _SENTENCE, np.float32) for _ in texts]

    users = index_training_users(cast(Any, FakeRanker()), encode, Catalogue(items, vectors, sentences), scoring, 8)
    actual = {(kind, has_history) for kind, has_history in users[:, -EXTRA_FEATURES:].tolist()}
    assert actual == {(kind, has_history) for kind in _KINDS.values() for has_history in (0, 1)} - {(1, 0)}
    assert set(_TITLES) & set(encoded)
    assert any(text in items[7].text and text not in _TITLES for text in encoded)
