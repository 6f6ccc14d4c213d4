"""What a recommender is told in evaluation is what the server is told: each user's own events, no more."""

from __future__ import annotations

import numpy as np

from swiftrec.export.blend.words import make_words
from swiftrec.export.data.split import Cases
from swiftrec.export.evaluate.recommender import Retrieval, Subject, Vectors
from swiftrec.server.catalogue.blend import Blend, Scoring
from swiftrec.server.catalogue.history import Names
from swiftrec.server.catalogue.sparse import Memory

_TITLES = ["red chair", "blue lamp", "green vase", "red chair"]  # two items have one title
_RECENT = 2


def subject() -> Subject:
    """Four items; a text's two halves are those of the first item with that title."""
    items = np.eye(4, dtype=np.float32)

    def encode(texts: list[str]) -> Vectors:
        rows = items[[_TITLES.index(text) for text in texts]]
        return np.concatenate([rows, rows], axis=1)

    words = make_words(_TITLES, _TITLES)
    scoring = Scoring(Blend([]), Memory.empty(4), words, 4)
    retrieval = Retrieval(scoring, Names(words, items, 0.5, _TITLES.__getitem__), items, np.ones(4, dtype=np.int64))
    return Subject(encode, lambda jobs: np.array([job.vectors[-1] for job in jobs]), items, _RECENT, None, retrieval)


def test_event_too_old_to_be_encoded_is_known_by_its_name_alone_whoever_else_has_it_recently() -> None:
    histories = [np.array([0, 1]), np.array([0, 1, 2])]
    cases = Cases(np.arange(2), histories, np.array([2, 3]))
    _, found = subject().of_texts(cases, _TITLES)
    recent, old = (history.tolist() for history in found.histories)
    assert recent == [0, 1]  # its meaning says which of the two items of that title it is
    assert old == [1, 2]
    _, alone = subject().of_texts(cases.take(np.array([1])), _TITLES)
    assert alone.histories[0].tolist() == old
