"""Fixtures of the tests of export."""

from __future__ import annotations

import pytest

from swiftrec.export.evaluate.selection import judge, pareto
from swiftrec.export.schema.comparison import OtherProtocol
from swiftrec.export.schema.models import TeacherRecord
from swiftrec.export.schema.quality import Default, Lists, Quality
from swiftrec.export.schema.record import Exposure, MeanInterval
from swiftrec.server.models.bundle import Manifest
from tests.export.records import figures, variant
from tests.server.support.bundles import tiny_manifest


@pytest.fixture
def quality() -> Quality:
    """Two shipped variants and one that lost too much."""
    shares = {"bert3-fp32": 1.0, "bert3-int8": 0.99, "static-fp32": 0.7}
    speeds = {"bert3-fp32": 800.0, "bert3-int8": 950.0, "static-fp32": 9_000.0}
    judged = [
        judge(
            variant(name, speeds[name]).model_copy(update={"retained": figures(kept)}),
            dict.fromkeys(("text", "query", "noisy", "overlap"), kept),
            allow_lossy=False,
        )
        for name, kept in shares.items()
    ]
    front = pareto(judged)
    seen = Exposure(0.4, 0.8, 0.5, 9.0, [0.5, 0.2, 0.1, 0.1, 0.1, 0, 0, 0, 0, 0])
    subjects = ["popularity", "transitions", "teacher", *shares]
    return Quality(
        protocol="leave-one-out",
        cases={"warm": 100, "cold": 20},
        cold_items=3,
        tasks={name: figures(0.1 * shares.get(name, 1.0)) for name in subjects},
        probes={"teacher": MeanInterval(1, 1, 1)},
        lists={
            n: Lists(task="ids", recall=figures(0.2)["ids"], mrr=figures(0.1)["ids"], exposure=seen) for n in subjects
        },
        targets_by_popularity=[0.1] * 10,
        groups={},
        other=OtherProtocol(
            protocol="time", cases=30, ndcg={"EASE": MeanInterval(0.07, 0.05, 0.09)}, remark="Not <honest>."
        ),
        teacher=TeacherRecord(layers=6, hidden=384, megabytes=90.9, texts_per_s_core=100),
        variants=[v.model_copy(update={"on_front": v.name in front}) for v in judged],
        default={device: Default("bert3-int8", "It is the fastest.") for device in ("cpu", "cuda")},
        curve=[{"step": 1, "epoch": 1, "loss": 7.0, "validation_ndcg": None}, {"step": 2, "epoch": 2, "loss": 6.5}],
        machine="a machine",
    )


@pytest.fixture
def manifest(quality: Quality) -> Manifest:
    return tiny_manifest(
        version=4,
        created="today",
        variants={record.name: record.file for record in quality.shipped},
        default={"cpu": "bert3-int8", "cuda": "bert3-fp32"},
        quality=quality.model_dump(mode="json"),
        sources={"data": {"source": "<data> & more", "licence": "none"}},
        tools={"numpy": "2"},
        machine="a machine",
    )
