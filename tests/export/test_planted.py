"""The planted data set has the given shares, and each part of a score finds what is planted for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.export.__main__ import main
from swiftrec.export.blend.fit import fit_weights
from swiftrec.export.blend.memory import fit_memory
from swiftrec.export.blend.requests import RequestGroup, requests_of
from swiftrec.export.blend.signals import BlendItems, SignalBuilder
from swiftrec.export.blend.words import make_words
from swiftrec.export.data import doctor, loader
from swiftrec.export.data.split import leave_one_out
from swiftrec.export.evaluate.metrics import random_ndcg, rank
from swiftrec.export.evaluate.recommender import EvaluatedRecommender, Retrieval
from swiftrec.export.planted.command import FACTS, ceilings
from swiftrec.export.planted.topics import ADJECTIVES, TOPICS
from swiftrec.export.planted.true_model import Shares, TrueModel, draw_dataset
from swiftrec.export.train.cold_start import FOLDS
from swiftrec.server.arrays import Vectors
from swiftrec.server.catalogue.blend import Blend, Scoring, ScoringInput, Weights
from tests.export.tables import names

ITEMS, USERS = 400, 400
MIXED, NO_CHAINS, NO_TOPICS = Shares(0.15, 0.75, 0.1), Shares(0.0, 0.75, 0.25), Shares(0.75, 0.0, 0.25)
MEMORY, TEXT, POPULAR = Weights(0, transitions=1.0), Weights(0, events=1.0), Weights(0, popularity=1.0)


class Parts:
    """Memory, text match and popularity of a planted world, fitted on what training sees; there is no ranker."""

    def __init__(self, shares: Shares) -> None:
        rng = np.random.default_rng(5)
        self.world = TrueModel.draw(ITEMS, shares, rng)
        self.dataset = draw_dataset(self.world, USERS, rng)
        self.split = leave_one_out(self.dataset)
        self.sentences = words_of([item.text for item in self.dataset.items])
        self.titles = [item.title for item in self.dataset.items]

    def ndcg(self, weights: Weights) -> float:
        """NDCG@10 on *ids* of the score with these weights."""
        known = self.split.known
        retrieval = Retrieval(self.scoring(known), names(self.titles, self.sentences), self.sentences, counts(known))
        nothing = np.zeros((ITEMS, 1), np.float32)
        subject = EvaluatedRecommender(
            lambda _: nothing, lambda users: nothing[: len(users)], nothing, 64, None, retrieval.only(weights)
        )
        cases = self.split.warm
        score = subject.scores({"ids": subject.of_histories(cases.histories)})["ids"]
        return float(rank(score, cases, ITEMS).ndcg.mean())

    def fitted(self) -> Weights:
        """The weights under which the users' validation items are most likely."""
        train = self.split.train
        nothing = np.zeros((ITEMS, 1), np.float32)
        items = BlendItems(nothing, nothing, np.full(ITEMS, FOLDS), self.sentences, counts(train).astype(np.float64))
        requested = [*requests_of(RequestGroup("none", 5, 0), self.split.validation, [], lambda _: "none", 1)]
        signals = SignalBuilder(items, self.scoring(train), FOLDS, 1)
        users = np.zeros((len(requested), 1), np.float32)
        return fit_weights(
            signals.choices(
                requested,
                users,
                lambda element: ScoringInput(len(element.history), element.history, self.sentences[element.history]),
            )
        )

    def scoring(self, histories: list[NDArray[np.int64]]) -> Scoring:
        memory = fit_memory(histories, ITEMS)
        return Scoring(Blend([]), memory, make_words(self.titles, self.titles), ITEMS)

    def best(self) -> dict[str, float]:
        """What the true model has."""
        return {name: result.mean for name, result in ceilings(self.world, self.dataset, 1).items()}


def words_of(texts: list[str]) -> Vectors:
    """Unit vectors of which words a text has, in the place of a language model's."""
    every = sorted({word for text in texts for word in text.lower().split()})
    result = np.array([[word in text.lower().split() for word in every] for text in texts], dtype=np.float32)
    unit: Vectors = result / np.linalg.norm(result, axis=1, keepdims=True)
    return unit


def counts(histories: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.bincount(np.concatenate(histories), minlength=ITEMS)


@pytest.fixture(scope="module")
def mixed() -> Parts:
    return Parts(MIXED)


def test_each_part_finds_what_is_planted_for_it(mixed: Parts) -> None:
    best, chance = mixed.best(), random_ndcg(ITEMS)
    assert mixed.ndcg(MEMORY) > 0.7 * best["what follows the last item alone"]
    assert mixed.ndcg(TEXT) > 0.4 * best["topics alone"]
    assert mixed.ndcg(POPULAR) > 0.7 * best["popularity alone"] > 2 * chance


def test_blend_beats_each_part_and_not_the_true_model(mixed: Parts) -> None:
    blended = mixed.ndcg(mixed.fitted())
    assert blended > 1.1 * max(mixed.ndcg(weights) for weights in (MEMORY, TEXT, POPULAR))
    assert blended < mixed.best()["the true model"]


def test_text_gains_nothing_without_planted_topics() -> None:
    parts = Parts(NO_TOPICS)
    assert parts.ndcg(TEXT) < 0.5 * parts.ndcg(POPULAR)
    assert parts.ndcg(MEMORY) > parts.ndcg(POPULAR)


def test_transitions_gain_nothing_without_planted_chains() -> None:
    parts = Parts(NO_CHAINS)
    best = parts.best()
    assert best["what follows the last item alone"] < 0.1 * best["the true model"]
    assert parts.ndcg(TEXT) > parts.ndcg(POPULAR)


def test_true_model_is_the_best_of_all(mixed: Parts) -> None:
    best = mixed.best()
    true_model = best.pop("the true model")
    assert true_model > max(best.values())


def test_histories_have_no_repeats_and_no_unreleased_items(mixed: Parts) -> None:
    model, dataset = mixed.world, mixed.dataset
    times = np.concatenate(dataset.times)
    span = (times - times.min()) / (times.max() - times.min())
    released = model.released[np.concatenate(dataset.histories)]
    assert all(len(np.unique(history)) == len(history) >= 10 for history in dataset.histories)
    assert (released > 0).any()
    assert (released <= span + 0.02).all()  # the first and the last second are not exactly 0 and 1


def test_items_differ_in_their_titles_and_show_their_topic_in_words_alone(mixed: Parts) -> None:
    items = mixed.dataset.items
    assert len({item.title for item in items}) == ITEMS
    for item, topic in zip(items, mixed.world.topics, strict=True):
        nouns = {word.strip(",.").lower() for word in item.text.split()} & {w for words in TOPICS for w in words}
        assert nouns <= {*TOPICS[topic]}
        assert set(item.attributes) == {"kind", "year"}


def test_topics_have_equal_numbers_of_distinct_words() -> None:
    words = [word for topic in TOPICS for word in topic]
    assert len(words) == len(set(words)) == len(TOPICS) * len(TOPICS[0])
    assert len(set(ADJECTIVES)) == len(ADJECTIVES)
    assert not set(words) & set(ADJECTIVES)


def test_command_writes_a_data_set_that_an_export_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--items", "100", "--users", "60"]
    for name in ("one", "two"):
        assert main(["planted", str(tmp_path / name), *flags]) == 0
    said = capsys.readouterr().out
    assert "one: 100 items, 60 users" in said
    assert "best possible NDCG@10 on ids by the true model: 0." in said
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"items.csv", "interactions.csv", FACTS}
    written = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert written[0] == written[1]
    facts = json.loads((tmp_path / "one" / FACTS).read_text())
    assert facts["shares"] == {"chains": 0.2, "topics": 0.6, "popularity": pytest.approx(0.2)}
    assert doctor.main([str(tmp_path / "one")]) == 0
    (tmp_path / "data").mkdir()
    read = loader.load(tmp_path / "one", tmp_path / "data").dataset
    assert [len(read.items), len(read.histories)] == [100, 60]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--chains", "0.5", "--topics", "0.5"], "--chains 0.5 and --topics 0.5 must be below 1 together"),
        (["--items", "99"], "--items: Input should be greater than or equal to 100, got '99'"),
        ([], "exists: name a folder that does not, or remove it"),
    ],
)
def test_invalid_flags_are_refused_in_one_sentence_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "note").write_text("mine")
    assert main(["planted", str(folder), *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("swiftrec export: ")
    assert words in said
    assert len(said.splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["note"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
