"""What is evaluated: an encoder, a ranker and a catalogue, in PyTorch or as the server runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.arrays import Histories
from swiftrec.export.data.split import Cases
from swiftrec.export.evaluate.metrics import RankedCases, Score, rank
from swiftrec.export.evaluate.query_tasks import QueryTask
from swiftrec.export.evaluate.requests import CachedNames, EncodedRequest, RequestVectors
from swiftrec.export.evaluate.tasks import Tasks
from swiftrec.server.arrays import Positions, Scores, Vector, Vectors
from swiftrec.server.catalogue.blend import (
    EXTRA_FEATURES,
    QUERIES,
    Blend,
    BlendRow,
    ScoreTerms,
    Scoring,
    Weights,
    item_vectors,
)
from swiftrec.server.catalogue.history import History, Names
from swiftrec.server.catalogue.sparse import NO_BOOSTS
from swiftrec.server.models.networks import EventKind, UserSequence, ranker_half, sentence_half

Encode = Callable[[list[str]], Vectors]
Rank = Callable[[list[UserSequence]], Vectors]

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The parts of a score beside the ranker, as the server has them.

    Args:
        scoring: weights, memory and words.
        names: which texts are items.
        sentences: sentence vectors of the items' texts, float32 [items, s].
        popularity: number of interactions of each item, [items].
    """

    scoring: Scoring
    names: Names
    sentences: Vectors
    popularity: NDArray[np.int64]

    def only(self, weights: Weights) -> Retrieval:
        """The same with these weights for every request."""
        blend = Blend([BlendRow(query, 0, weights) for query in QUERIES])
        return replace(self, scoring=self.scoring.with_blend(blend))


@dataclass(frozen=True, slots=True)
class EvaluatedRecommender:
    """A recommender.

    Args:
        encode: gives vectors [texts, d + s] of texts: a unit vector for the ranker, and behind it a unit sentence
            vector (s is 0 without a sentence half).
        rank: gives user vectors [users, d].
        items: vectors [items, d] that the catalogue is shipped with, those of items that training never saw among them.
        max_history: events that are read, the last ones.
        titles: the same as `encode` of titles by position, if they are known already.
        retrieval: the parts beside the ranker; without them items are ranked by the product with the user vector.
    """

    encode: Encode
    rank: Rank
    items: Vectors
    max_history: int
    titles: Callable[[NDArray[np.int64]], Vectors] | None = None
    retrieval: Retrieval | None = None

    @property
    def dimensions(self) -> int:
        """Length of the ranker half."""
        return int(self.items.shape[1])

    def ranker_half(self, vectors: Vectors) -> Vectors:
        """What `rank` reads of the vectors [texts, d + s] of texts: [texts, d]."""
        return ranker_half(vectors, self.dimensions)

    def rank_tasks(self, tasks: Tasks, id_requests: Mapping[str, RequestVectors]) -> dict[str, RankedCases]:
        """Results on every task; `id_requests` is what `of_items` returned for "ids" and "cold"."""
        requests, cases = dict(id_requests), tasks.cases
        for task, texts, known in (("text", tasks.titles, self.titles), ("noisy", tasks.noisy, None)):
            if task in cases:
                requests[task], cases[task] = self.of_texts(cases[task], texts, known)
        requests |= self._of_queries(tasks.queries)
        scores = self.scores(requests)
        return {task: rank(scores[task], own, len(self.items)) for task, own in cases.items()}

    def scores(self, requests: Mapping[str, RequestVectors]) -> dict[str, Score]:
        """Task -> its scores, for each task of `requests`."""
        items = self._item_vectors()
        return {task: _score(vectors, items) for task, vectors in requests.items()}

    def of_items(self, tasks: Tasks) -> dict[str, RequestVectors]:
        """Histories as item ids: the same for every encoder behind one ranker and one catalogue."""
        cases = {"ids": tasks.warm, "cold": tasks.cold}
        return {task: self.of_histories(own.histories) for task, own in cases.items()}

    def of_histories(self, histories: Histories) -> RequestVectors:
        """Requests with these histories of item ids."""
        return self._vectors(map(self._of_history, histories))

    def of_texts(
        self, cases: Cases, texts: Sequence[str], known: Callable[[NDArray[np.int64]], Vectors] | None = None
    ) -> tuple[RequestVectors, Cases]:
        """Requests with the histories of `cases`, positions in `texts`, as texts; the cases with the items seen there.

        Args:
            cases: the cases.
            texts: by position.
            known: returns the vectors [n, d + s] of positions, if they need no encoding.
        """
        requests, seen = self._of_texts(cases.histories, texts, known or self._encoding(texts))
        return self._vectors(requests), replace(cases, histories=seen)

    def of_queries(self, texts: Sequence[str]) -> RequestVectors:
        """Requests without a history; each different text is encoded once and ranked once."""
        row_of = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        distinct = self._vectors(
            self._with_query(EncodedRequest(), text, v) for text, v in zip(row_of, self.encode([*row_of]), strict=True)
        )
        rows = [row_of[text] for text in texts]
        return RequestVectors(distinct.vectors[rows], [distinct.boosts[row] for row in rows])

    def _item_vectors(self) -> Vectors:
        """The vectors that those of requests are multiplied with, [items, width]."""
        if self.retrieval is None:
            return self.items
        return item_vectors(self.items, self.retrieval.sentences, self.retrieval.popularity)

    def _of_queries(self, queries: Mapping[str, QueryTask]) -> dict[str, RequestVectors]:
        """Every query task, each different text once for all of them."""
        whole, end, by_task = self.of_queries([text for query in queries.values() for text in query.texts]), 0, {}
        for task, query in queries.items():
            part = slice(end, end := end + len(query.texts))
            by_task[task] = RequestVectors(whole.vectors[part], whole.boosts[part])
        return by_task

    def _encoding(self, texts: Sequence[str]) -> Callable[[NDArray[np.int64]], Vectors]:
        return lambda positions: self.encode([texts[n] for n in positions])

    def _of_history(self, history: Positions) -> EncodedRequest:
        request = EncodedRequest()
        for item in self._last(history).tolist():
            self._add_item(request, item)
        return request

    def _of_texts(
        self, histories: Histories, texts: Sequence[str], vectors_of: Callable[[NDArray[np.int64]], Vectors]
    ) -> tuple[list[EncodedRequest], Histories]:
        """Histories as texts, and the items that the server leaves out of each; each needed text is encoded once."""
        needed = np.unique(np.concatenate([self._last(history) for history in histories]))
        vectors = dict(zip(needed.tolist(), vectors_of(needed), strict=True))
        if self.retrieval is None:
            return [self._of_plain(history, vectors) for history in histories], histories
        names, requests, seen = CachedNames(self.retrieval.names), list[EncodedRequest](), list[NDArray[np.int64]]()
        for history in histories:
            known = History(names, self.max_history)
            for position, n in enumerate(history.tolist()):
                known.add_text(position, texts[n])
            requests.append(self._of_events(known, [vectors[n] for n in self._last(history).tolist()]))
            seen.append(np.array(known.items, dtype=np.int64))
        return requests, seen

    def _of_plain(self, history: Positions, vectors: Mapping[int, Vector]) -> EncodedRequest:
        """A history of a recommender that cannot tell that a text is an item."""
        request = EncodedRequest()
        for n in self._last(history).tolist():
            self._add(request, EventKind.TEXT, vectors[n])
        return request

    def _of_events(self, history: History, vectors: Sequence[Vector]) -> EncodedRequest:
        """A history of texts as the server reads it; `vectors` are of the events that are read."""
        request = EncodedRequest()
        for event, vector in zip(history.read, vectors, strict=True):
            item = history.recognise(event, sentence_half(vector, self.dimensions))
            if item is None:
                self._add(request, EventKind.TEXT, vector)
            else:
                self._add_item(request, item)
        return request

    def _add_item(self, request: EncodedRequest, item: int) -> None:
        """Add an item to the request's events."""
        request.vectors.append(self.items[item])
        request.kinds.append(EventKind.ITEM)
        request.items.append(item)
        if self.retrieval is not None:
            request.sentences.append(self.retrieval.sentences[item])

    def _add(self, request: EncodedRequest, kind: EventKind, vector: Vector) -> None:
        """Add a text."""
        request.vectors.append(ranker_half(vector, self.dimensions))
        request.kinds.append(kind)
        request.sentences.append(sentence_half(vector, self.dimensions))

    def _with_query(self, request: EncodedRequest, query: str, vector: Vector) -> EncodedRequest:
        self._add(request, EventKind.QUERY, vector)
        request.query = query
        return request

    def _last(self, history: Positions) -> NDArray[np.int64]:
        return history[-self.max_history :]

    def _vectors(self, requests: Iterable[EncodedRequest]) -> RequestVectors:
        """The vectors of the requests, in their order."""
        listed = list(requests)
        users = self._users([UserSequence(request.vectors, request.kinds) for request in listed])
        if self.retrieval is None:
            return RequestVectors(users, [NO_BOOSTS] * len(users))
        width = self.retrieval.sentences.shape[1]
        known, scoring = [request.known(width) for request in listed], self.retrieval.scoring
        batches = [scoring.terms(known[start : start + _BATCH]) for start in range(0, len(known), _BATCH)]
        terms = [_with_fallback(row) for batch in batches for row in batch]
        compared = [row.at(user) for row, user in zip(terms, users, strict=True)]
        vectors = np.array(compared, dtype=np.float32).reshape(len(terms), self.dimensions + width + EXTRA_FEATURES)
        return RequestVectors(vectors, [row.boosts for row in terms])

    def _users(self, rows: Sequence[UserSequence]) -> Vectors:
        """User vectors in the order of `rows`; run by length, so that batches need little padding."""
        users = np.empty((len(rows), self.dimensions), dtype=np.float32)
        order = sorted(range(len(rows)), key=lambda n: len(rows[n].kinds))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            users[batch] = self.rank([rows[n] for n in batch])
        return users


def _with_fallback(terms: ScoreTerms) -> ScoreTerms:
    """As the server ranks: by popularity if no part of the score applies to the request."""
    if not terms.is_zero:
        return terms
    rest = np.zeros_like(terms.rest)
    rest[-EXTRA_FEATURES] = 1  # of log(1 + popularity)
    return replace(terms, rest=rest)


def _score(requests: RequestVectors, items: Vectors) -> Score:
    def score(part: slice) -> Scores:
        scores: Scores = requests.vectors[part] @ items.T
        for row, boosts in zip(scores, requests.boosts[part], strict=True):
            boosts.add_to(row)
        return scores

    return score
