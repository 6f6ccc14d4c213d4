"""Bundles of format 1 are served: their score is that of the ranker alone, and texts are not recognised as items."""

from __future__ import annotations

import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest

from swiftrec.export.errors import ExportError
from swiftrec.export.report.command import load_quality
from swiftrec.server.domain import ItemEvent, Request, TextEvent
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import RANKER, Bundle, load_bundle
from swiftrec.server.parts import PARTS
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommend import explain
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.tuning import tune
from swiftrec.server.tuning.tuned import read_tuned
from tests.server.support import bundles
from tests.server.support.apps import serving
from tests.server.support.small import ask

_TITLE = "Toy Story (1995)"
_OPTIONS = EngineOptions(sessions=1)


@pytest.fixture(scope="module")
def older(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The quick bundle in format 1."""
    name = bundle.manifest.name
    return load_bundle(bundles.copy_as_format_1(bundle, tmp_path_factory.mktemp("older") / name / "1"))


def test_scores_are_those_of_the_ranker_alone(bundle: Bundle, older: Bundle) -> None:
    ids = [item.id for item in Recommender(bundle, _OPTIONS).catalogue.items[:30]]
    requests = [
        Request(history=tuple(map(ItemEvent, ids[n : n + 4])), query=query, exclude_history=excludes, top_k=20)
        for n in (0, 9, 21)
        for query in ("", "animated films for children")
        for excludes in (None, False)
    ]
    alone = EngineOptions(sessions=1, parts_off=frozenset(PARTS) - {"ranker"})
    with Recommender(older, _OPTIONS) as actual, Recommender(bundle, alone) as expected:
        pairs = [*zip(ask(actual, *requests), ask(expected, *requests), strict=True)]
        assert actual.encode([_TITLE]).shape == (1, older.manifest.dimensions)
    for response, other in pairs:
        assert [item.id for item, _ in response.items] == [item.id for item, _ in other.items]
        np.testing.assert_allclose(
            [score for _, score in response.items], [score for _, score in other.items], atol=1e-4
        )


def test_text_events_are_not_recognised_as_items(bundle: Bundle, older: Bundle) -> None:
    request = Request(history=(TextEvent(_TITLE), TextEvent("a film")))
    for served, count in ((older, 0), (bundle, 1)):
        with Recommender(served, _OPTIONS) as engine:
            (response,) = ask(engine, request)
        assert (response.events_used, len(response.resolved)) == (2, count)


def test_only_the_ranker_contributes_to_a_score(older: Bundle) -> None:
    with Recommender(older, _OPTIONS) as engine:
        known = engine.catalogue.items[0].id
        state = engine.resolve(Request(history=(ItemEvent(known), TextEvent(_TITLE)), query=_TITLE))
        engine.run([state])
        assert state.items is not None
        for (_, score), part in zip(state.items, explain(engine.stages, state), strict=True):
            assert part.event is None
            assert part.parts == dict.fromkeys(PARTS, 0.0) | {"ranker": pytest.approx(score, abs=1e-5)}


def test_formats_are_swapped_in_both_directions(bundle: Bundle, older: Bundle, tmp_path: Path) -> None:
    """Each version is first tried by swiftrec probe, in a separate process."""
    name = bundle.manifest.name
    shutil.copytree(older.folder, tmp_path / name / "1")
    with (
        serving([tmp_path / name], is_stub=False) as app,
        grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel,
    ):
        client = RecommenderServiceStub(channel)

        def served() -> tuple[int, int]:
            """The version, and the number of texts that were recognised as items."""
            response = client.Recommend(pb.RecommendRequest(history=[pb.Event(text=_TITLE)]), timeout=30)
            return response.version, len(response.resolved_events)

        assert served() == (1, 0)
        bundles.seal(bundles.copy(bundle, tmp_path / name / "2"), 2)
        app.registry.load(name)
        assert served() == (2, 1)
        damaged = bundles.copy_as_format_1(bundle, tmp_path / name / "3", version=3)
        bundles.replace(damaged / RANKER, bundles.stand_in("no model"))
        bundles.write_format_1(damaged, load_bundle(damaged.parent / "1").manifest, version=3)
        with pytest.raises(BundleError, match=rf"{RANKER}: ONNX Runtime cannot load it"):
            app.registry.load(name)
        assert served() == (2, 1)
        bundles.copy_as_format_1(bundle, tmp_path / name / "4", version=4)
        app.registry.load(name)
        assert served() == (4, 0)


def test_bundle_of_format_1_is_tuned(older: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "_BUDGETS", (128,))
    settings = tune.TuneSettings(bundle=older.folder, seconds=0.01, repeats=1)
    assert tune.tune(settings).exists()
    assert read_tuned(older.folder, "cpu", older.manifest.default["cpu"]) is not None


def test_report_of_a_bundle_of_format_1_says_what_to_do(older: Bundle) -> None:
    with pytest.raises(ExportError) as caught:
        load_quality(older.folder)
    assert str(caught.value) == (
        f"{older.folder}: its record is of an older export: run swiftrec export, or read its MODEL_CARD.md"
    )
