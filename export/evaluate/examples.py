"""A few requests of the data set for the report, with the best ten items of the bundle and of the untrained encoder.

They are chosen by a fixed rule, not by their results: the first two of the test's histories, and a description of two
items, the one with the most interactions and the one in the middle of that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from swiftrec.export.data.dataset import DatasetItem
from swiftrec.export.data.split import Cases
from swiftrec.export.evaluate.metrics import best
from swiftrec.export.evaluate.recommender import EvaluatedRecommender
from swiftrec.server.domain import Request, TextEvent

_HISTORIES, _EVENTS = 2, 5
_DESCRIPTION_WORDS = 4


@dataclass(frozen=True, slots=True)
class ExampleRequest:
    """A history of titles, oldest first, or a query."""

    history: tuple[str, ...] = ()
    query: str = ""

    @property
    def request(self) -> Request:
        """As the server's pipeline reads it."""
        return Request(history=tuple(map(TextEvent, self.history)), query=self.query)


def choose_requests(
    histories: Iterable[Sequence[str]], items: Sequence[DatasetItem], popularity: Sequence[int]
) -> list[ExampleRequest]:
    """Choose the requests by the rule above.

    Args:
        histories: of the test, as titles; only the last five events are shown.
        items: the catalogue.
        popularity: number of interactions of each item.
    """
    requests = [ExampleRequest(history=tuple(history[-_EVENTS:])) for history in [*histories][:_HISTORIES]]
    order = np.argsort(-np.asarray(popularity), kind="stable")
    described = dict.fromkeys(_describe(items[int(order[n])]) for n in (0, len(order) // 2))
    return requests + [ExampleRequest(query=query) for query in described if query]


def _describe(item: DatasetItem) -> str:
    """The item's attribute values, or the first words of its text if it has none."""
    words = [*chain.from_iterable(item.attributes.values())] or item.text.split()
    return " ".join(words[:_DESCRIPTION_WORDS])


def best_titles(recommender: EvaluatedRecommender, request: ExampleRequest, titles: Sequence[str]) -> list[str]:
    """Titles of a recommender's best ten items, without those of the history.

    Args:
        recommender: reads texts.
        request: what is requested.
        titles: of all items, by position.
    """
    if request.query:
        vectors = recommender.of_queries([request.query])
    else:
        positions = np.arange(len(request.history))
        vectors, _ = recommender.of_texts(Cases(np.zeros(1, np.int64), [positions], positions[:1]), request.history)
    scores = recommender.scores({"example": vectors})["example"](slice(None))[0].copy()
    scores[[n for n, title in enumerate(titles) if title in request.history]] = -np.inf
    return [titles[n] for n in best(scores)]
