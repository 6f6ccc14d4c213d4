"""The weights of a bundle's manifest: what is no set of weights is refused by one sentence."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from swiftrec.server.catalogue.blend import Blend, Weights
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import MANIFEST, Manifest
from tests.server import small

_WEIGHTS = asdict(Weights())
_ROWS: list[dict[str, Any]] = [
    {"query": "none", "events": 1, "weights": _WEIGHTS},
    {"query": "none", "events": 5, "weights": _WEIGHTS},
    {"query": "title", "events": 0, "weights": _WEIGHTS},
]


def changed(row: int, **fields: object) -> list[dict[str, Any]]:
    """The rows with other fields in one of them; None takes a field away."""
    rows = deepcopy(_ROWS)
    rows[row] = {name: value for name, value in (rows[row] | fields).items() if value is not None}
    return rows


_DAMAGES = [
    (_ROWS[1:], "no row is of requests with one event and no query"),
    (_ROWS[:2], "no row is of requests with a query and no event"),
    (changed(0, events=2), "no row is of requests with one event and no query"),
    (changed(2, events=1), "no row is of requests with a query and no event"),
    (changed(1, events=1), "two rows are of the same kind of query and number of events"),
    (changed(1, query="words"), "row 1 has the query 'words', which is none of none, description, title"),
    (changed(1, events=-1), "row 1 has -1 for its number of events"),
    (changed(1, events="5"), "row 1 has '5' for its number of events"),
    (changed(1, events=True), "row 1 has True for its number of events"),
    (changed(1, weights=None), "row 1 lacks its query, events or weights"),
    (changed(1, weights=[1.0]), "row 1 lacks its query, events or weights"),
    (changed(1, weights={}), "row 1 has other weights than those of the signals: events, neighbours, newcomer"),
    (changed(1, weights=_WEIGHTS | {"luck": 1.0}), "row 1 has other weights than those of the signals: luck"),
    (changed(1, weights=_WEIGHTS | {"words": float("nan")}), "row 1 has nan for the weight of words"),
    (changed(1, weights=_WEIGHTS | {"words": float("inf")}), "row 1 has inf for the weight of words"),
    (changed(1, weights=_WEIGHTS | {"words": "1"}), "row 1 has '1' for the weight of words"),
]


def test_weights_that_are_some_are_read() -> None:
    assert [asdict(row) for row in Blend.read(_ROWS).rows] == [_ROWS[1], _ROWS[0], _ROWS[2]]
    assert Blend.read([]).weights(3, "title") == Weights()


@pytest.mark.parametrize(("rows", "said"), _DAMAGES)
def test_weights_that_are_none_are_refused(rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
        Blend.read(rows)
    assert said in str(refused.value)


def test_a_bundle_with_such_weights_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    path = small.write_bundle(tmp_path / "1") / MANIFEST
    fields = json.loads(path.read_bytes())
    path.write_text(Manifest(**fields | {"blend": _ROWS[:2]}).sealed().model_dump_json())
    with pytest.raises(
        BundleError, match=r"manifest\.json: blend: no row is of requests with a query and no event: exp"
    ):
        small.engine(path.parent)
