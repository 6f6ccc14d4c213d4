"""Weights of the parts of a score: fitting, files and disabled parts."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from swiftrec.export.blend import fit
from swiftrec.export.blend.cold_boost import MAX_LOSS, _Lists, boost_cold_items
from swiftrec.export.blend.fit import Choices, fit_weights, likelihood
from swiftrec.export.blend.memory import fit_memory
from swiftrec.export.blend.queries import QueryWriter
from swiftrec.export.blend.requests import BlendRequest, RequestGroup, requests_of
from swiftrec.export.blend.signals import BlendItems, SignalBuilder
from swiftrec.export.blend.words import make_words
from swiftrec.export.data.dataset import DatasetItem
from swiftrec.export.data.split import Cases
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.errors import ExportError
from swiftrec.server.catalogue.blend import (
    EXTRA_FEATURES,
    QUERIES,
    SIGNALS,
    Blend,
    BlendRow,
    Query,
    Scoring,
    ScoringInput,
    Weights,
    item_vectors,
)
from swiftrec.server.parts import PARTS
from tests.peak import peak_of

_ITEMS, _RANKER, _SENTENCE = 30, 4, 3
_TITLES = [f"title{n} word{n % 3}" for n in range(_ITEMS)]
_RANDOM = np.random.default_rng(1)
_VECTORS = _RANDOM.normal(size=(_ITEMS, _RANKER)).astype(np.float32)
_SENTENCES = _RANDOM.normal(size=(_ITEMS, _SENTENCE)).astype(np.float32)
_HISTORIES = [_RANDOM.permutation(_ITEMS)[:8] for _ in range(20)]
_POPULARITY = np.bincount(np.concatenate(_HISTORIES), minlength=_ITEMS)
_WEIGHTS = Weights(1.2, 0.5, 0.7, 0.4, 3.0, 0.2, 0.3, -0.5)


def scoring(*rows: BlendRow) -> Scoring:
    return Scoring(Blend(rows), fit_memory(_HISTORIES, _ITEMS), make_words(_TITLES, _TITLES), _ITEMS)


def known_of(history: list[int], query: str = "") -> ScoringInput:
    items = np.array(history, dtype=np.int64)
    return ScoringInput(len(items), items, _SENTENCES[items], query, _SENTENCES[0] if query else None)


def planted(weights: NDArray[np.float64], requests: int = 4_000, choices: int = 12) -> list[Choices]:
    """Requests that choose by a logit of these weights."""
    random, result = np.random.default_rng(3), []
    for _ in range(requests):
        signals = random.normal(size=(choices, len(SIGNALS))).astype(np.float32)
        chances = np.exp(signals @ weights)
        first = random.choice(choices, p=chances / chances.sum())
        order = np.r_[first, np.delete(np.arange(choices), first)]
        result.append(Choices(signals[order], np.zeros(choices, np.float32)))
    return result


def test_fit_recovers_the_weights_that_generated_the_choices() -> None:
    target = np.array([1.0, 0.5, 0.0, 0.3, 0.8, 0.2, 0.1, -0.6])
    result = fit_weights(planted(target))
    values = np.array([getattr(result, name) for name in SIGNALS])
    np.testing.assert_allclose(values, target, atol=0.08)


def test_only_the_weight_of_cold_items_may_be_negative() -> None:
    result = fit_weights(planted(np.array([1.0, 0, 0, 0, -0.8, 0, 0, -0.8])))
    assert result.neighbours == 0
    assert result.newcomer < -0.5


def test_each_useful_part_raises_the_likelihood() -> None:
    choices = planted(np.array([1.0, 0.5, 0.4, 0.3, 0.8, 0.4, 0.4, -0.6]), requests=1_000)
    weights = fit_weights(choices)
    assert all(likelihood(choices, weights) > likelihood(choices, weights.without([part])) for part in PARTS)


def test_weights_of_a_small_group_stay_near_the_starting_weights() -> None:
    start = Weights(ranker=1.0, words=0.5)
    few, many = (fit_weights(planted(np.array([0.2, 0, 0, 0, 0, 0, 0, 0]), n), start) for n in (5, 4_000))
    assert abs(few.ranker - 1) < 0.3
    assert abs(many.ranker - 0.2) < 0.1


def test_sampled_item_has_the_weight_of_the_items_it_represents() -> None:
    """Half of the others drawn, each for two, give the weights of all."""
    every = planted(np.array([1.0, 0, 0, 0, 0.5, 0, 0, 0]), choices=21)
    halves = [Choices(c.signals[:11], np.r_[0, np.full(10, np.log(2))].astype(np.float32)) for c in every]
    first, second = fit_weights(every), fit_weights(halves)
    assert first.ranker == pytest.approx(second.ranker, abs=0.12)
    assert first.neighbours == pytest.approx(second.neighbours, abs=0.12)


def few_requests(count: int, seed: int, items: int = 300) -> list[Choices]:
    """Requests that choose by the text alone; the ranker knows nothing, and neither does the memory."""
    random, result = np.random.default_rng(seed), []
    for _ in range(count):
        signals = np.zeros((items, len(SIGNALS)), np.float32)
        signals[:, SIGNALS.index("ranker")] = 2 * random.normal(size=items)
        signals[:, SIGNALS.index("events")] = 0.3 * random.normal(size=items)
        signals[:, SIGNALS.index("popularity")] = random.exponential(size=items)
        for name, size in (("transitions", 3.0), ("neighbours", 0.05)):
            signals[random.choice(items, 4), SIGNALS.index(name)] = size * random.exponential(size=4)
        chances = np.exp(8 * signals[:, SIGNALS.index("events")])
        target = random.choice(items, p=chances / chances.sum())
        order = np.r_[target, np.delete(np.arange(items), target)]
        result.append(Choices(signals[order], np.zeros(items, np.float32)))
    return result


@pytest.mark.parametrize("count", [3, 6, 12])
def test_random_ranker_gets_a_small_weight_when_requests_are_few(count: int) -> None:
    """What is found stays near what the text match alone finds, however the few requests came out."""
    test = few_requests(400, 99)
    text = _Lists.of(test, Weights(ranker=0.0, events=1.0)).ndcg(0.0).mean()
    result = [_Lists.of(test, fit_weights(few_requests(count, seed))).ndcg(0.0).mean() for seed in range(6)]
    assert min(result) > 0.84 * text


def test_optimiser_is_restarted_when_it_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = planted(np.array([4.0, 2.0, 1.6, 1.2, 3.0, 1.6, 1.6, -2.4]), requests=200)
    whole = fit_weights(choices)
    monkeypatch.setattr(fit, "minimize", partial(minimize, options={"maxiter": 2}))
    in_parts = fit_weights(choices)
    for name in SIGNALS:
        assert getattr(in_parts, name) == pytest.approx(getattr(whole, name), abs=0.1)


def test_fit_is_refused_when_the_optimiser_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = planted(np.array([1.0, 0.5, 0.4, 0.3, 0.8, 0.4, 0.4, -0.6]), requests=200)
    monkeypatch.setattr(fit, "minimize", partial(minimize, options={"maxiter": 0}))
    with pytest.raises(ExportError, match="blend: the optimiser did not find weights of the score"):
        fit_weights(choices)


def test_only_the_ranker_has_a_weight_without_choices() -> None:
    assert fit_weights([]) == Weights()


@pytest.mark.parametrize(
    ("events", "query", "ranker"),
    [(1, "none", 1), (4, "none", 1), (5, "none", 5), (99, "none", 5), (0, "title", 9), (3, "title", 9)],
)
def test_weights_depend_on_the_kind_of_request_and_its_events(events: int, query: Query, ranker: float) -> None:
    rows = [BlendRow("none", 1, Weights(1)), BlendRow("none", 5, Weights(5)), BlendRow("title", 0, Weights(9))]
    blend = Blend.read([asdict(row) for row in rows])
    assert blend.weights(events, query).ranker == ranker


def test_kind_without_weights_uses_the_ranker_alone() -> None:
    assert Blend([]).weights(3, "title") == Weights()


def test_parts_name_every_weight_once() -> None:
    assert sorted(name for names in PARTS.values() for name in names) == sorted(SIGNALS)


@pytest.mark.parametrize("part", PARTS)
def test_disabled_part_has_zero_weights_and_the_others_stay(part: str) -> None:
    off = Blend([BlendRow("none", 1, _WEIGHTS)]).without([part]).weights(1, "none")
    assert off == replace(_WEIGHTS, **dict.fromkeys(PARTS[part], 0.0))


@settings(deadline=None)  # the first call builds tables
@given(
    history=st.lists(st.integers(0, _ITEMS - 1), max_size=12, unique=True),
    query=st.sampled_from(["", "title3", "word1 title5", "titel7", "nothing"]),
)
def test_one_product_and_the_boosts_are_the_sum_of_all_signals(history: list[int], query: str) -> None:
    known, user = known_of(history, query), _VECTORS[3] + 1
    rows = [BlendRow(kind, 0, _WEIGHTS) for kind in QUERIES]
    aim = scoring(*rows).request_terms(known)
    result = item_vectors(_VECTORS, _SENTENCES, _POPULARITY) @ aim.at(user) + aim.boosts.at(np.arange(_ITEMS))
    never_new = np.full(_ITEMS, 9)
    items = BlendItems(_VECTORS, _VECTORS, never_new, _SENTENCES, _POPULARITY.astype(float))
    target = next(n for n in range(_ITEMS) if n not in history)
    request = BlendRequest(np.array(history, np.int64), "", target, np.empty(0, np.int64))
    (choices,) = SignalBuilder(items, scoring(), 2, 0).choices([request], user[None], lambda _: known)
    order = np.r_[target, np.delete(np.arange(_ITEMS), target)]
    values = np.array([getattr(_WEIGHTS, name) for name in SIGNALS])
    is_new = np.where(_POPULARITY == 0, _WEIGHTS.newcomer, 0)
    np.testing.assert_allclose(choices.signals @ values + is_new[order], result[order], rtol=1e-4, atol=1e-3)


def test_items_treated_as_cold_have_cold_vectors_and_neither_memory_nor_popularity() -> None:
    folds = np.arange(_ITEMS) % 2
    no_texts = np.empty((_ITEMS, 0), np.float32)  # by which they would inherit a memory
    items = BlendItems(_VECTORS, np.ones_like(_VECTORS), folds, no_texts, (_POPULARITY + 1).astype(float))
    known = replace(known_of([1, 2, 3]), sentences=no_texts[:3])
    request = BlendRequest(np.array([1, 2, 3]), "", 7, np.array([1, 2, 3]))
    (result,) = SignalBuilder(items, scoring(), 2, 0).choices(
        [request], np.ones((1, _RANKER), np.float32), lambda _: known
    )
    chosen = np.r_[7, [n for n in range(_ITEMS) if n not in (1, 2, 3, 7)]]
    is_new = folds[chosen] == 0
    by_name = dict(zip(SIGNALS, result.signals.T, strict=True))
    assert (by_name["newcomer"] == is_new).all()
    for name in ("transitions", "neighbours", "popularity"):
        assert (by_name[name][is_new] == 0).all()
        assert by_name[name][~is_new].any()
    assert (by_name["ranker"][is_new] == _RANKER).all()


def test_choices_from_a_large_catalogue_are_a_weighted_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftrec.export.blend.signals._SAMPLED_ITEMS", 4)
    monkeypatch.setattr("swiftrec.export.blend.signals._LARGEST_ITEMS", 6)
    items = BlendItems(_VECTORS, _VECTORS, np.arange(_ITEMS) % 10, _SENTENCES, _POPULARITY.astype(np.float64))
    made = SignalBuilder(items, scoring(), 10, seed=1)
    history = np.array([0, 1, 2])
    added = scoring().added(Weights(transitions=1, neighbours=1, words=1), known_of([0, 1, 2], "word1"))
    assert len({*np.concatenate([part.positions for part in added.values()]).tolist()}) > 12
    request = BlendRequest(history, "word1", 5, history)
    [choices] = made.choices([request], _VECTORS[:1], lambda _: known_of([0, 1, 2], "word1"))
    assert len(choices.offsets) <= 1 + 6 + 4
    assert np.exp(choices.offsets).sum() == pytest.approx(_ITEMS - len(history), rel=1e-5)
    named = {name: choices.signals[: 1 + 6, SIGNALS.index(name)].max() for name in ("neighbours", "words")}
    for name, largest in named.items():  # the strongest are among the choices
        masked = np.isin(added[name].positions, history)
        assert largest == pytest.approx(added[name].values[~masked].max())


def test_fitting_uses_little_memory_besides_the_choices() -> None:
    choices = planted(np.array([1.0, 0.5, 0.4, 0.3, 0.8, 0.4, 0.4, -0.6]), requests=100, choices=2_000)
    rows = sum(len(choice.offsets) for choice in choices)
    assert peak_of(lambda: fit_weights(choices)) < 110 * rows  # of which the choices one after the other are 36


def test_choices_exclude_items_that_are_always_new_and_items_seen() -> None:
    folds = np.where(np.arange(_ITEMS) < 5, -1, 0)
    items = BlendItems(_VECTORS, _VECTORS, folds, _SENTENCES, _POPULARITY.astype(float))
    signals, users = SignalBuilder(items, scoring(), 2, 0), np.ones((1, _RANKER), np.float32)
    for target, count in ((7, _ITEMS - 5 - 1), (2, None), (9, None)):
        request = BlendRequest(np.array([9]), "", target, np.array([9]))
        result = signals.choices([request], users, lambda _: known_of([9]))
        assert [len(choice.offsets) for choice in result] == ([] if count is None else [count])


def test_item_vectors_have_both_halves_popularity_and_a_mark_of_new_items() -> None:
    result = item_vectors(_VECTORS, _SENTENCES, np.r_[0, np.full(_ITEMS - 1, 7)])
    assert result.shape == (_ITEMS, _RANKER + _SENTENCE + EXTRA_FEATURES)
    assert result[0, -EXTRA_FEATURES:].tolist() == [0, 1]
    assert result[1, -EXTRA_FEATURES:].tolist() == [np.float32(np.log(8)), 0]


def test_requests_have_the_events_and_queries_of_their_group() -> None:
    cases = Cases(np.arange(3), [np.array([0, 1, 2]), np.array([3]), np.array([4, 5])], np.array([3, 4, 0]))
    queries = [f"asks for {target}" for target in cases.targets]

    def kind_of(text: str) -> Query:
        return "description" if text.endswith("4") else "title"

    for request in requests_of(RequestGroup("none", events=2, last=2), cases, queries, kind_of, 0):
        assert len(request.history) == 2
        assert not request.query
        assert set(request.history) <= set(request.masked.tolist())
    for request in requests_of(RequestGroup("title", events=0, last=0), cases, queries, kind_of, 0):
        assert not len(request.history)
        assert not len(request.masked)
        assert request.query == f"asks for {request.target}"
        assert request.target != 4


def test_queries_differ_from_those_of_training() -> None:
    items = [
        DatasetItem(str(n), f"The Title {n} (1999)", f"text {n}", {"genre": [f"kind{n % 4}", "all"]}) for n in range(12)
    ]
    read = [[item.title for item in items], [f"title {n}" for n in range(12)]]
    known_of = QueryWriter(items, ["film"], 7).write([*range(12)] * 20, Texts(read, []))
    assert not set(known_of) & {text for way in read for text in way}
    assert known_of == QueryWriter(items, ["film"], 7).write([*range(12)] * 20, Texts(read, []))
    by_values = [text for n, text in enumerate(known_of) if f"kind{n % 12 % 4}" in text]
    assert 40 < len(by_values) < 200


def test_query_of_an_item_without_attributes_is_its_title() -> None:
    (known_of,) = QueryWriter([DatasetItem("1", "Alien", "Alien", {})], ["film"], 7).write([0], Texts([["x"]], []))
    assert known_of


@pytest.mark.parametrize(("ranker", "below"), [(1.0, 3.0), (50.0, 0.0)])
def test_boost_of_new_items_stops_before_known_items_lose_quality(ranker: float, below: float) -> None:
    random = np.random.default_rng(5)

    def choices_of(*, wants_new: bool) -> Choices:
        signals = np.zeros((60, len(SIGNALS)), np.float32)
        signals[:, 0] = random.normal(size=60)
        signals[0, 0] += 2
        signals[30:, SIGNALS.index("newcomer")] = 1
        signals[30:, 0] -= below
        if wants_new:
            signals[[0, 30]] = signals[[30, 0]]
            signals[0, 0] += 2
        return Choices(signals, np.zeros(60, np.float32))

    choices = [choices_of(wants_new=bool(n % 10 == 0)) for n in range(400)]
    hidden, raised = Weights(ranker), boost_cold_items(choices, Weights(ranker))
    result = {name: _Lists.of(choices, weights) for name, weights in (("hidden", hidden), ("raised", raised))}
    new = result["raised"].has_cold_target
    known = result["hidden"].ndcg(-1e4)[~new].mean(), result["raised"].ndcg(raised.newcomer)[~new].mean()
    assert (1 - MAX_LOSS) * known[0] <= known[1] < known[0]
    assert result["raised"].ndcg(raised.newcomer)[new].mean() > result["hidden"].ndcg(-1e4)[new].mean()
    assert boost_cold_items(choices[1:10], Weights()) == Weights()  # control: no target is a cold item


def test_new_items_reach_their_share_of_the_lists_when_known_items_lose_nothing() -> None:
    """Warm targets are far ahead of all others, so raising cold items cannot lower them."""
    random = np.random.default_rng(5)

    def choices_of(target: int) -> Choices:
        signals = np.zeros((60, len(SIGNALS)), np.float32)
        signals[:, 0] = random.normal(size=60)
        signals[48:, SIGNALS.index("newcomer")] = 1
        signals[target, 0] += 1000
        signals[[0, target]] = signals[[target, 0]]
        return Choices(signals, np.zeros(60, np.float32))

    choices = [choices_of(50 if n % 10 == 0 else 3) for n in range(200)]
    lists, raised = _Lists.of(choices, Weights(1.0)), boost_cold_items(choices, Weights(1.0))
    assert lists.share == pytest.approx(0.2)
    assert 0.18 < lists.shown(raised.newcomer) <= 0.2
    assert lists.shown(raised.newcomer + 1) > 0.3  # control: the budget alone would allow it
    assert lists.ndcg(raised.newcomer + 1)[~lists.has_cold_target].min() == 1


def test_new_items_are_not_boosted_when_no_known_item_is_found() -> None:
    def choices_of(boost: float) -> Choices:
        signals = np.zeros((40, len(SIGNALS)), np.float32)
        signals[1:, 0] = 5  # the target is ranked last
        signals[0, SIGNALS.index("newcomer")] = boost
        return Choices(signals, np.zeros(40, np.float32))

    assert boost_cold_items([choices_of(0.0), choices_of(1.0)], Weights()) == Weights()


def test_kind_of_query_without_fitted_weights_uses_those_of_the_other() -> None:
    blend = Blend([BlendRow("none", 1, Weights(1)), BlendRow("description", 0, Weights(7))])
    assert blend.weights(3, "title").ranker == 7
    assert blend.weights(0, "none") == Weights()
