"""The profile counts a sample for the innermost place of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import hotspots

_STACKS = [
    "_bootstrap (threading.py:1);run (server/batching/batcher.py:90);run (server/models/session.py:41) 60",
    "_bootstrap (threading.py:1);call (server/api/edge.py:7);dumps (json/__init__.py:3) 30",
    "_bootstrap (threading.py:1);wait (server/api/edge.py:7) 5",
    "poll (grpc/_channel.py:1) 5",
]


def test_a_sample_belongs_to_the_innermost_place_of_ours() -> None:
    found = hotspots.places(_STACKS)
    assert found["run (server/models/session.py:41)"] == 60
    assert found["call (server/api/edge.py:7)"] == 30
    assert found["outside server/"] == 5
    assert sum(found.values()) == 100


def test_rooms_add_up_their_places() -> None:
    assert hotspots.rooms(_STACKS) == {"server/models": 60, "server/api": 35, "outside server/": 5}


def test_without_the_profiler_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hotspots, "_SPY", tmp_path / "py-spy")
    with pytest.raises(RuntimeError, match="make setup"):
        hotspots.run(hotspots.HotspotsSettings(_cli_parse_args=[]))
