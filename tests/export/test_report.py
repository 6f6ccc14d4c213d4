"""The report: one record as a table, as JSON, as a card and as a page; and the Triton repository."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from onnx import TensorProto, helper, save
from rich.console import Console
from tritonclient.grpc import model_config_pb2 as config_pb

from swiftrec.export.blend.record import BlendRecord, GroupRecord
from swiftrec.export.compress.ranker_graphs import RankerGraph
from swiftrec.export.errors import ExportError
from swiftrec.export.evaluate.assemble import _curves
from swiftrec.export.evaluate.beyond_accuracy import Exposure
from swiftrec.export.evaluate.metrics import Figure
from swiftrec.export.evaluate.models_record import Pieces, RankerRecord, TeacherRecord, VariantRecord
from swiftrec.export.evaluate.query_tasks import MAKERS
from swiftrec.export.evaluate.record import ColdPair, Comparison, Lists, OtherProtocol, Quality
from swiftrec.export.evaluate.selection import Default, judge, pareto
from swiftrec.export.evaluate.tasks import SHARES, TASKS, present
from swiftrec.export.gates import packaged
from swiftrec.export.models.static import StaticEncoder
from swiftrec.export.report import plots
from swiftrec.export.report.html import write_page
from swiftrec.export.report.ladder import WIDTH, load_quality, remarks, table
from swiftrec.export.report.model_card import write_card
from swiftrec.export.report.rows import as_json
from swiftrec.export.report.tables import show
from swiftrec.export.report.triton_repository import write_repository
from swiftrec.export.stages.onnx import trace
from swiftrec.export.variants import Variant
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import FORMAT, Bundle, Manifest
from swiftrec.server.models.networks import EncoderModel
from swiftrec.server.models.session import open_session
from swiftrec.server.parts import PARTS
from tests.export.tiny import job

_TASKS = ("ids", "text", "query", "noisy", "cold")
_KEYS = (
    *("name", "default", "device", "precision", "layers", "hidden", "mb", "texts_per_s_core", "ms_batch1"),
    *("speedup_vs_teacher_pytorch", "retained", "cold", "batch_invariance"),
)


def figures(mean: float) -> dict[str, Figure]:
    return {task: Figure(mean, mean - 0.01, mean + 0.01) for task in _TASKS}


def variant(name: str, speed: float) -> Variant:
    student, _, precision = name.rpartition("-")
    return Variant(name, student, precision, "cpu", f"encoder.{name}.onnx", 3, 384, 53.2, speed, 1.1, 8.5, 0.9998, 1e-7)


@pytest.fixture
def quality() -> Quality:
    """Two shipped variants and one that lost too much."""
    shares = {"bert3-fp32": 1.0, "bert3-int8": 0.99, "static-fp32": 0.7}
    speeds = {"bert3-fp32": 800.0, "bert3-int8": 950.0, "static-fp32": 9_000.0}
    judged = [
        judge(
            variant(name, speeds[name]), dict.fromkeys(("text", "query", "noisy", "overlap"), kept), allow_lossy=False
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
        probes={"teacher": Figure(1, 1, 1)},
        lists={
            n: Lists(task="ids", recall=figures(0.2)["ids"], mrr=figures(0.1)["ids"], exposure=seen) for n in subjects
        },
        wanted_by_popularity=[0.1] * 10,
        groups={},
        other=OtherProtocol(protocol="time", cases=30, ndcg={"EASE": Figure(0.07, 0.05, 0.09)}, remark="Not <honest>."),
        teacher=TeacherRecord(layers=6, hidden=384, megabytes=90.9, texts_per_s_core=100),
        variants=[VariantRecord.of(j, figures(j.kept["text"]), on_front=j.variant.name in front) for j in judged],
        default={device: Default("bert3-int8", "It is the fastest.") for device in ("cpu", "cuda")},
        curve=[{"step": 1, "epoch": 1, "loss": 7.0, "validation_ndcg": None}, {"step": 2, "epoch": 2, "loss": 6.5}],
        machine="a machine",
    )


@pytest.fixture
def manifest(quality: Quality) -> Manifest:
    names = [record.variant.name for record in quality.shipped]
    return Manifest(
        format=FORMAT,
        name="tiny",
        version=4,
        created="today",
        export_key="",
        dimensions=128,
        max_tokens=128,
        max_history=64,
        variants={name: f"encoder.{name}.onnx" for name in names},
        default={"cpu": "bert3-int8", "cuda": "bert3-fp32"},
        quality=quality.model_dump(mode="json"),
        sources={"data": {"source": "<data> & more", "licence": "none"}},
        tools={"numpy": "2"},
        machine="a machine",
        files={},
    )


def test_record_is_read_as_it_was_written(quality: Quality) -> None:
    assert Quality.model_validate_json(quality.model_dump_json()) == quality
    assert Quality.model_validate(json.loads(quality.model_dump_json())) == quality


def test_json_has_what_the_issue_names(quality: Quality) -> None:
    found = as_json(quality)
    assert [row["name"] for row in found["variants"]] == ["bert3-fp32", "bert3-int8"]  # what is shipped
    for row in found["variants"]:
        assert set(_KEYS) <= set(row)
        assert set(row["retained"]) == {"ids", "text", "query", "noisy"}
        assert row["default"] == (row["name"] == "bert3-int8")
    assert set(found["teacher"]["tasks"]) == set(_TASKS)
    assert set(found["baselines"]) == {"popularity", "transitions"}


def test_json_has_intervals_and_who_was_refused_by_which_gate(quality: Quality) -> None:
    found = as_json(quality)
    row = found["variants"][0]
    assert row["retained_interval"]["text"] == pytest.approx([0.99, 1.01])
    assert row["cold_interval"] == pytest.approx([0.09, 0.11])
    (refused,) = found["not_shipped"]
    assert refused["name"] == "static-fp32"
    assert {"gate": "text", "value": 0.7, "threshold": 0.9, "passed": False} in refused["gates"]
    assert (found["protocol"], found["machine"]) == ("leave-one-out", "a machine")


def test_rounds_of_the_speeds_are_told_where_they_were_kept(quality: Quality) -> None:
    first, *others = quality.variants
    timed = replace(first.variant, texts_per_s_range=(780.0, 1_010.0), speedup_range=(8.2, 8.9))
    told = quality.model_copy(update={"variants": [first.model_copy(update={"variant": timed}), *others]})
    line = "800 texts/s [780, 1,010], 8.5x the PyTorch teacher [8.2, 8.9]: median and [lowest, highest] round"
    assert [words for words in remarks(told) if "round" in words] == [f"bert3-fp32: {line}"]
    rows = as_json(Quality.model_validate_json(told.model_dump_json()))["variants"]
    assert [row["texts_per_s_range"] for row in rows] == [(780.0, 1_010.0), None]
    assert rows[0]["speedup_range"] == (8.2, 8.9)


def test_row_is_default_of_its_own_device_alone(quality: Quality) -> None:
    chosen = {"cpu": Default("bert3-int8", ""), "cuda": Default("bert3-fp32", "")}  # cuda borrows a graph of the cpu's
    rows = {row["name"]: row for row in as_json(quality.model_copy(update={"default": chosen}))["variants"]}
    assert [name for name, row in rows.items() if row["default"]] == ["bert3-int8"]
    assert {name: row["default_on"] for name, row in rows.items()} == {"bert3-fp32": ["cuda"], "bert3-int8": ["cpu"]}


def test_table_has_every_rung_and_says_who_is_not_shipped_and_why(quality: Quality) -> None:
    console = Console(width=WIDTH, file=io.StringIO(), record=True)
    console.print(table(quality))
    words = console.export_text()
    assert [name for name in quality.tasks if name not in words] == []
    assert re.search(r"bert3-int8 .*950.*default \(cpu, cuda\)", words)
    assert re.search(r"static-fp32 .*not shipped", words)
    assert any(
        line.startswith("static-fp32 is not shipped: text 0.700, 0.200 short of 0.900") for line in remarks(quality)
    )


def test_ranker_and_word_pieces_are_reported(quality: Quality) -> None:
    ranker = RankerRecord.of(RankerGraph("ranker", 1.2, 1e-6, 0.31, 4_000.0))
    told = quality.model_copy(update={"rankers": [ranker], "pieces": Pieces(kept=8_000, of=30_522)})
    lines = remarks(told)
    assert "The students know 8,000 of the checkpoint's 30,522 word pieces (--vocabulary)." in lines
    parity = "parity with PyTorch 1e-06, at most 0.0001"
    assert any(line.startswith(f"ranker.onnx: 1.20 MB, {parity}, 0.310 ms a user") for line in lines)
    found = as_json(told)
    assert found["pieces"] == {"kept": 8_000, "of": 30_522}
    assert [(row["name"], row["file"]) for row in found["rankers"]] == [("ranker", "ranker.onnx")]
    assert not any("word pieces" in line for line in remarks(quality))


def test_lost_baselines_are_in_report_card_and_page(tmp_path: Path, quality: Quality, manifest: Manifest) -> None:
    def compared(task: str, difference: Figure) -> Comparison:
        return Comparison(
            task=task,
            subject="bert3-int8",
            own=0.1,
            baseline="transitions",
            other=0.1 - difference.mean,
            difference=difference,
            cases=100,
        )

    lost, equal = compared("ids", Figure(-0.02, -0.03, -0.01)), compared("cold", Figure(-0.001, -0.01, 0.01))
    told = quality.model_copy(update={"comparisons": [lost, equal, compared("text", Figure(0.05, 0.01, 0.09))]})
    lines = [
        "ids: bert3-int8 loses to transitions (NDCG@10 0.1000 and 0.1200, difference -0.0200 [-0.030, -0.010] over the "
        "same 100 cases).",
        "cold: bert3-int8 is not above transitions (NDCG@10 0.1000 and 0.1010, difference -0.0010 [-0.010, 0.010] over "
        "the same 100 cases).",
    ]
    assert told.warnings == lines
    assert remarks(told)[:2] == lines
    write_card(tmp_path / "card.md", manifest, told)
    write_page(tmp_path / "page.html", manifest, told)
    for line in lines:
        assert f"- {line}\n" in (tmp_path / "card.md").read_text()
        assert line in (tmp_path / "page.html").read_text()
    rows = as_json(Quality.model_validate_json(told.model_dump_json()))["comparisons"]
    assert [(row["task"], row["loses"], row["is_above"]) for row in rows] == [
        ("ids", True, False),
        ("cold", False, False),
        ("text", False, True),
    ]
    assert quality.warnings == []


def test_tasks_of_every_kind_their_shares_and_why_one_is_absent_are_in_report_card_and_page(
    tmp_path: Path, quality: Quality, manifest: Manifest
) -> None:
    rows = {name: row | {task: Figure(0.4, 0.3, 0.5) for task in MAKERS} for name, row in quality.tasks.items()}
    shares = {
        name: {task: dict.fromkeys(names, Figure(0.875, 0.825, 0.925)) for task, names in SHARES.items()}
        for name in rows
    }
    absent = {"tags": "the items have no column tags"}
    told = quality.model_copy(update={"tasks": rows, "shares": shares, "absent": absent})
    assert Quality.model_validate_json(told.model_dump_json()) == told
    console = Console(width=WIDTH, file=io.StringIO(), record=True)
    show(console, told)
    console.print(table(told))
    write_card(tmp_path / "card.md", manifest, told)
    write_page(tmp_path / "page.html", manifest, told)
    card, page = (tmp_path / "card.md").read_text(), (tmp_path / "page.html").read_text()
    for words in (console.export_text(), card, page):
        assert all(task in words for task in TASKS)
        assert all(column in words for column in ("title first", "title in ten", "typos in ten", "negation violating"))
        assert "0.875" in words
        assert "No task tags: the items have no column tags." in words
    assert "No task tags: the items have no column tags." in remarks(told)
    found = as_json(told)
    assert {*found["variants"][0]["retained"]} <= {*found["variants"][0]["tasks"]} == {*TASKS}
    assert found["teacher"]["shares"]["title"]["in ten"] == {"mean": 0.875, "low": 0.825, "high": 0.925}
    assert found["baseline_shares"]["popularity"].keys() == SHARES.keys()
    assert found["absent"] == absent
    assert present(quality.tasks) == [*_TASKS]  # of an older export
    assert "title first" not in _card_of(tmp_path, manifest, quality)


def _card_of(tmp_path: Path, manifest: Manifest, quality: Quality) -> str:
    write_card(tmp_path / "card.md", manifest, quality)
    return (tmp_path / "card.md").read_text()


def test_groups_below_popularity_are_in_the_warnings_and_others_are_not(quality: Quality) -> None:
    def compared(group: str, high: float) -> Comparison:
        difference = Figure(-0.02, -0.03, high)
        figures = {"own": 0.04, "other": 0.06, "difference": difference, "cases": 50}
        return Comparison(task="ids", subject="bert3-int8", baseline="popularity", group=group, **figures)

    told = quality.model_copy(update={"group_comparisons": [compared("age 50 to 73", -0.01), compared("age 7", 0.01)]})
    line = "ids, age 50 to 73: bert3-int8 loses to popularity (NDCG@10 0.0400 and 0.0600, difference -0.0200 [-0.030, "
    assert told.warnings == [f"{line}-0.010] over the same 50 cases)."]
    assert remarks(told)[0] == told.warnings[0]
    rows = as_json(Quality.model_validate_json(told.model_dump_json()))["group_comparisons"]
    assert [(row["group"], row["loses"]) for row in rows] == [("age 50 to 73", True), ("age 7", False)]


def test_cold_is_told_as_a_pair_with_the_share_of_new_items(
    tmp_path: Path, quality: Quality, manifest: Manifest
) -> None:
    one = Figure(0.0149, 0.009, 0.021)
    pair = ColdPair(
        share=0.034, cold=one, ids=figures(0.1)["ids"], own_share=0.107, own_cold=figures(0.05)["cold"], own_ids=one
    )
    told = quality.model_copy(update={"cold_pairs": {"teacher": pair, "static-fp32": pair}, "cold_share": 0.0345})
    line = (
        "teacher: cold 0.0149 [0.009, 0.021] and ids 0.1000 [0.090, 0.110] with new items in 3.40% of the lists; as it "
        "ranks, cold 0.0500 [0.040, 0.060] and ids 0.0149 [0.009, 0.021] with 10.70%"
    )
    assert [words for words in remarks(told) if "new items in" in words] == [line]
    write_card(tmp_path / "card.md", manifest, told)
    write_page(tmp_path / "page.html", manifest, told)
    card, page = (tmp_path / "card.md").read_text(), (tmp_path / "page.html").read_text()
    assert f"| static-fp32 | 10.70% | {pair.own_cold} | {pair.own_ids} | 3.40% | {pair.cold} | {pair.ids} |" in card
    assert f"<td>10.70%</td><td>{pair.own_cold}</td>" in page
    console = Console(width=WIDTH, file=io.StringIO(), record=True)
    show(console, told)
    assert "with new items in 3.45% of the lists of ids" in console.export_text()
    assert as_json(told)["cold_pairs"]["teacher"] == pair.model_dump()
    write_card(tmp_path / "card.md", manifest, quality)
    assert "## New items" not in (tmp_path / "card.md").read_text()  # control: a data set without such cases


@pytest.mark.parametrize(("repeats", "words"), [("exclude", "left out"), ("allow", "may be recommended again")])
def test_card_says_whether_items_are_recommended_again(
    tmp_path: Path, quality: Quality, manifest: Manifest, repeats: str, words: str
) -> None:
    write_card(tmp_path / "card.md", manifest, quality.model_copy(update={"repeats": repeats}))
    assert f"items of the history {words}, ties" in (tmp_path / "card.md").read_text()


def test_gate_of_the_packaged_bundle_is_told_where_it_was_kept(quality: Quality) -> None:
    told = quality.model_copy(update={"packaged": packaged(0.996)})
    line = "The packaged bundle behind the server's pipeline: share of the evaluated top ten 0.996, at least 0.99."
    assert line in remarks(told)
    assert not any("packaged" in words for words in remarks(quality))
    found = as_json(Quality.model_validate_json(told.model_dump_json()))["packaged"]
    assert (found["value"], found["threshold"], found["passed"]) == (0.996, 0.99, True)
    assert as_json(quality)["packaged"] is None


def test_card_and_page_have_the_figures_and_need_nothing_else(
    tmp_path: Path, quality: Quality, manifest: Manifest
) -> None:
    write_card(tmp_path / "card.md", manifest, quality)
    write_page(tmp_path / "page.html", manifest, quality)
    card, page = (tmp_path / "card.md").read_text(), (tmp_path / "page.html").read_text()
    for text in (card, page):
        assert "0.0990 [0.089, 0.109]" in text
        assert "short of 0.900" in text
    assert not re.search(r"<script|<link|<img|src=|https?://", page)
    assert "&lt;data&gt; &amp; more" in page
    assert "Not &lt;honest&gt;" in page
    drawn = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawn) == 5  # front, loss, two of baselines, popularity
    for drawing in drawn:
        ElementTree.fromstring(drawing)  # noqa: S314 (our own)


def test_page_draws_the_curve_of_all_that_was_trained(tmp_path: Path, quality: Quality, manifest: Manifest) -> None:
    moving = [{"epoch": 1, "loss": 0.2, "validation_ndcg": 0.10}, {"epoch": 2, "loss": 0.1, "validation_ndcg": 0.11}]
    losses = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4}]
    told = quality.model_copy(update={"curves": {"trunk": moving, "bert3": losses}})
    write_page(tmp_path / "page.html", manifest, told)
    page = (tmp_path / "page.html").read_text()
    for words in ("head: training loss", "trunk: training loss", "trunk: validation NDCG@10", "bert3: training loss"):
        assert words in page
    assert "bert3: validation" not in page


def test_curves_are_read_from_the_stages_that_trained(tmp_path: Path) -> None:
    tiny = job(tmp_path)
    rows = [{"step": 1, "epoch": 1, "loss": 0.2}]
    for file, what in (
        ("finetune/curve.json", rows),  # the head's has a place of its own
        ("finetune/curve-trunk.json", rows),
        ("finetune/curve-1.json", rows),
        ("distil/bert3/student.json", {"name": "bert3", "losses": [0.5, 0.4]}),
    ):
        (tiny.root / file).parent.mkdir(parents=True, exist_ok=True)
        (tiny.root / file).write_text(json.dumps(what))
    student = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4}]
    assert _curves(tiny) == {"1": rows, "trunk": rows, "bert3": student}


def test_record_without_interactions_is_shown_as_agreement(
    tmp_path: Path, quality: Quality, manifest: Manifest
) -> None:
    kept = {"cosine": Figure(0.97, 0.95, 0.98), "overlap": Figure(0.9, 0.8, 0.94)}
    judged = judge(variant("bert3-int8", 950), {gate: figure.mean for gate, figure in kept.items()}, allow_lossy=False)
    record = VariantRecord.of(judged, {}, on_front=True, agreement=kept)
    nothing = {"tasks": {}, "probes": {}, "lists": {}, "groups": {}, "wanted_by_popularity": [], "variants": [record]}
    bare = quality.model_copy(update=nothing | {"protocol": "agreement"})
    write_card(tmp_path / "card.md", manifest, bare)
    write_page(tmp_path / "page.html", manifest, bare)
    line = "bert3-int8 agrees with the original checkpoint: cosine 0.9700 [0.950, 0.980], overlap 0.9000 [0.800, 0.940]"
    page = (tmp_path / "page.html").read_text()
    assert f"- {line}\n" in (tmp_path / "card.md").read_text()
    assert line in remarks(bare)
    assert line in page
    assert "share of the checkpoint&#x27;s top ten" in page
    assert "Bars are 95 % intervals over texts." in page
    row = as_json(bare)["variants"][0]
    assert (row["retained"], row["overlap"], row["cosine"]) == ({}, 0.9, 0.97)
    assert (row["overlap_interval"], row["cosine_interval"]) == ([0.8, 0.94], [0.95, 0.98])
    assert {"gate": "cosine", "value": 0.97, "threshold": 0.9, "passed": True} in row["gates"]
    Console(file=io.StringIO()).print(table(bare))


def test_gates_that_were_not_measured_are_told(tmp_path: Path, quality: Quality, manifest: Manifest) -> None:
    kept = {"text": None, "query": 1.0, "noisy": None, "overlap": 0.9}
    record = VariantRecord.of(judge(variant("bert3-int8", 950), kept, allow_lossy=False), {}, on_front=True)
    told = quality.model_copy(update={"variants": [record]})
    line = "bert3-int8: not measured, since nothing wanted was among the ten best: text, noisy"
    assert line in remarks(told)
    write_card(tmp_path / "card.md", manifest, told)
    write_page(tmp_path / "page.html", manifest, told)
    assert f"- {line}\n" in (tmp_path / "card.md").read_text()
    assert line in (tmp_path / "page.html").read_text()
    assert not any("not measured" in line for line in remarks(quality))


def test_report_says_that_a_bundle_was_trained_without_order(quality: Quality) -> None:
    line = "Order of a user's interactions: without order (--order none); each user's validation and test items"
    assert remarks(quality.model_copy(update={"order": "none"}))[0].startswith(line)
    assert not any("Order of" in words for words in remarks(quality))


def test_report_of_a_bundle_of_an_older_export_says_to_export_it_again(
    tmp_path: Path, quality: Quality, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(quality.model_dump_json())

    def load(folder: Path) -> Bundle:
        """The manifest of any export is read: its quality is whatever was written."""
        return Bundle(folder, Manifest.model_validate(manifest.model_dump() | {"quality": rows}))

    monkeypatch.setattr("swiftrec.export.report.ladder.load_bundle", load)
    assert load_quality(tmp_path) == quality  # control
    for row in rows["variants"]:
        row["noisy_of_clean"] = None  # a figure that older exports had
    with pytest.raises(ExportError, match="the newest bundle comes from an older export: run make export"):
        load_quality(tmp_path)


def test_points_stand_where_their_figures_are() -> None:
    drawing = plots.scatter([plots.Point("a", 100, 0.9, 0.8, 1.0), plots.Point("b", 10_000, 0.5, 0.4, 0.6)], "x", "y")
    (ax, ay), (bx, by) = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawing)
    assert float(ax) < float(bx)
    assert float(ay) < float(by)  # downwards on the screen


def write_graphs(folder: Path, manifest: Manifest, mark: str = "") -> dict[str, str]:
    """Tiny graphs under the names that the manifest gives them, and the ranker's; model -> file."""
    graphs = {**manifest.variants, "ranker": "ranker.onnx"}
    folder.mkdir(exist_ok=True)
    for file in graphs.values():
        tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        save(helper.make_model(helper.make_graph([], f"{file}{mark}", [tensor], [tensor])), folder / file)
    return graphs


def test_triton_repository_parses_and_fits_the_graphs(tmp_path: Path, manifest: Manifest) -> None:
    graphs = write_graphs(tmp_path, manifest)
    repository = write_repository(Bundle(tmp_path, manifest), tmp_path / "triton")
    folders = sorted(path for path in repository.iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["encoder_bert3-fp32", "encoder_bert3-int8", "ranker"]
    for folder in folders:
        config = text_format.Parse((folder / "config.pbtxt").read_text(), config_pb.ModelConfig())
        assert config.name == folder.name
        assert config.platform == "onnxruntime_onnx"
        assert config.max_batch_size > 1
        assert config.HasField("dynamic_batching")
        source = tmp_path / graphs[folder.name.removeprefix("encoder_")]
        assert (folder / "1" / "model.onnx").read_bytes() == source.read_bytes()
    with pytest.raises(text_format.ParseError):
        text_format.Parse("no_such_field: 1", config_pb.ModelConfig())  # control


def test_triton_encoders_give_the_vectors_that_the_ranker_reads(tmp_path: Path, manifest: Manifest) -> None:
    """The bundle's graphs have both halves in one output; the repository's are cut to the first."""
    both = manifest.model_copy(update={"dimensions": 3, "sentence_dimensions": 2})
    write_graphs(tmp_path, both)
    torch.manual_seed(0)
    student = StaticEncoder(9, 4, 3, 2)
    torch.nn.init.normal_(student.table.weight)
    ids = torch.tensor([[2, 7, 5]])
    for file in both.variants.values():
        trace(student, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, "vectors", tmp_path / file)
    before = (tmp_path / "encoder.bert3-int8.onnx").read_bytes()
    repository = write_repository(Bundle(tmp_path, both), tmp_path / "triton")
    assert (tmp_path / "encoder.bert3-int8.onnx").read_bytes() == before
    config = text_format.Parse(
        (repository / "encoder_bert3-int8" / "config.pbtxt").read_text(), config_pb.ModelConfig()
    )
    assert list(config.output[0].dims) == [3]
    graph = repository / "encoder_bert3-int8" / "1" / "model.onnx"
    assert [output.shape for output in onnxruntime.InferenceSession(graph).get_outputs()] == [["batch", 3]]
    whole = EncoderModel(open_session(tmp_path / "encoder.bert3-int8.onnx")).run(ids.tolist())[0]
    cut = EncoderModel(open_session(graph)).run(ids.tolist())[0]
    assert whole.shape == (5,)
    np.testing.assert_array_equal(cut, whole[:3])


def test_triton_repository_of_a_deleted_bundle_with_the_same_version_is_replaced(
    tmp_path: Path, manifest: Manifest
) -> None:
    write_graphs(tmp_path / "deleted", manifest, "deleted")
    write_repository(Bundle(tmp_path / "deleted", manifest), tmp_path / "triton")
    again = manifest.model_copy(update={"export_key": "of other data"})
    write_graphs(tmp_path / "again", again)
    for _ in range(2):  # written, then kept
        graph = write_repository(Bundle(tmp_path / "again", again), tmp_path / "triton") / "ranker" / "1" / "model.onnx"
        assert graph.read_bytes() == (tmp_path / "again" / "ranker.onnx").read_bytes()
    (tmp_path / "again" / "ranker.onnx").unlink()  # so that a third repository cannot be written
    assert write_repository(Bundle(tmp_path / "again", again), tmp_path / "triton").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"deleted", "again", "triton"}


def test_half_a_triton_repository_is_replaced(tmp_path: Path, manifest: Manifest) -> None:
    write_graphs(tmp_path / "bundle", manifest)
    (tmp_path / "triton" / "ranker").mkdir(parents=True)
    repository = write_repository(Bundle(tmp_path / "bundle", manifest), tmp_path / "triton")
    assert (repository / "encoder_bert3-int8" / "config.pbtxt").exists()


@pytest.mark.parametrize(
    ("device", "wanted", "file"),
    [
        ("cpu", None, "encoder.bert3-int8.onnx"),
        ("cuda", None, "encoder.bert3-fp32.onnx"),
        ("cpu", "bert3-fp32", "encoder.bert3-fp32.onnx"),
        ("cpu", "fp32", "encoder.bert3-fp32.onnx"),
    ],
)
def test_variant_is_found_by_name_precision_or_device(
    tmp_path: Path, manifest: Manifest, device: str, wanted: str | None, file: str
) -> None:
    assert Bundle(tmp_path, manifest).encoder(device, wanted).name == file


def test_unknown_variant_is_refused_with_those_that_are_there(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(BundleError, match=r"no encoder variant 'fp16'; it has bert3-fp32, bert3-int8"):
        Bundle(tmp_path, manifest).encoder("cpu", "fp16")


def test_curve_of_one_epoch_is_drawn() -> None:
    drawing = plots.lines([plots.Line("a", [(1.0, 0.0)])], "x", "y")
    assert "nan" not in drawing
    assert "inf" not in drawing
    assert re.search(r'points="[\d.]+,[\d.]+"', drawing)


def test_card_says_what_each_part_brings(tmp_path: Path, quality: Quality, manifest: Manifest) -> None:
    without = dict.fromkeys(PARTS, -5.0) | {"memory": -5.25, "words": -4.9}
    group = GroupRecord(query="none", events=5, cases=90, weights={"ranker": 1.0}, likelihood=-5.0, without=without)
    write_card(tmp_path / "card.md", manifest, quality.model_copy(update={"blend": BlendRecord(groups=[group])}))
    assert "| 5 events or more | 90 | -5.000 |  | +0.250 |  | -0.100 |  |" in (tmp_path / "card.md").read_text()
    write_card(tmp_path / "card.md", manifest, quality)
    assert "Parts of a score" not in (tmp_path / "card.md").read_text()
