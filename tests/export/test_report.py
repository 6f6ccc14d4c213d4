"""The report: one record as a table, as JSON, as a card and as a page."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from swiftrec.export.errors import ExportError
from swiftrec.export.evaluate.query_tasks import MAKERS
from swiftrec.export.evaluate.selection import judge
from swiftrec.export.evaluate.tasks import SHARES, TASKS, present
from swiftrec.export.gates import packaged, ranker_parity
from swiftrec.export.report.command import WIDTH, load_quality
from swiftrec.export.report.record_json import as_json
from swiftrec.export.report.render import write_card, write_report
from swiftrec.export.report.sentences import remarks
from swiftrec.export.report.tables import main_tables, print_tables, show
from swiftrec.export.schema.blend import BlendRecord, GroupRecord
from swiftrec.export.schema.comparison import ColdPair, Comparison
from swiftrec.export.schema.models import RankerRecord, VocabularySize
from swiftrec.export.schema.quality import Default, Quality
from swiftrec.export.schema.record import MeanInterval
from swiftrec.export.stages.quality_record import read_curves
from swiftrec.server.models.bundle import Bundle, Manifest
from swiftrec.server.parts import PARTS
from tests.export.records import TASK_NAMES, figures, variant
from tests.export.tiny import job

_KEYS = (
    *("name", "default", "device", "precision", "layers", "hidden", "mb", "texts_per_s_core", "ms_batch1"),
    *("speedup_vs_teacher_pytorch", "retained", "cold", "batch_invariance"),
)


def test_record_round_trips(quality: Quality) -> None:
    assert Quality.model_validate_json(quality.model_dump_json()) == quality
    assert Quality.model_validate(json.loads(quality.model_dump_json())) == quality


def test_json_has_the_documented_keys(quality: Quality) -> None:
    result = as_json(quality)
    assert [row["name"] for row in result["variants"]] == ["bert3-fp32", "bert3-int8"]  # what is shipped
    for row in result["variants"]:
        assert set(_KEYS) <= set(row)
        assert set(row["retained"]) == {"ids", "text", "query", "noisy"}
        assert row["default"] == (row["name"] == "bert3-int8")
    assert set(result["teacher"]["tasks"]) == set(TASK_NAMES)
    assert set(result["baselines"]) == {"popularity", "transitions"}


def test_json_has_intervals_and_the_failed_gates_of_each_variant(quality: Quality) -> None:
    result = as_json(quality)
    row = result["variants"][0]
    assert row["retained_interval"]["text"] == pytest.approx([0.99, 1.01])
    assert row["cold_interval"] == pytest.approx([0.09, 0.11])
    (refused,) = result["not_shipped"]
    assert refused["name"] == "static-fp32"
    assert refused["refused"].startswith("text 0.7, at least 0.9")
    assert ("text", 0.7, 0.9, False) in [(g["gate"], g["value"], g["threshold"], g["passed"]) for g in refused["gates"]]
    assert (result["protocol"], result["machine"]) == ("leave-one-out", "a machine")


def test_rounds_of_the_speeds_are_reported_when_recorded(quality: Quality) -> None:
    first, *others = quality.variants
    timed = first.model_copy(update={"texts_per_s_range": (780.0, 1_010.0), "speedup_range": (8.2, 8.9)})
    changed = quality.model_copy(update={"variants": [timed, *others]})
    line = "800 texts/s [780, 1,010], 8.5x the PyTorch teacher [8.2, 8.9]: median and [lowest, highest] round"
    assert [words for words in remarks(changed) if "round" in words] == [f"bert3-fp32: {line}"]
    rows = as_json(Quality.model_validate_json(changed.model_dump_json()))["variants"]
    assert [row["texts_per_s_range"] for row in rows] == [(780.0, 1_010.0), None]
    assert rows[0]["speedup_range"] == (8.2, 8.9)


def test_variant_is_marked_as_default_only_for_its_device(quality: Quality) -> None:
    chosen = {"cpu": Default("bert3-int8", ""), "cuda": Default("bert3-fp32", "")}  # cuda borrows a graph of the cpu's
    rows = {row["name"]: row for row in as_json(quality.model_copy(update={"default": chosen}))["variants"]}
    assert [name for name, row in rows.items() if row["default"]] == ["bert3-int8"]
    assert {name: row["default_on"] for name, row in rows.items()} == {"bert3-fp32": ["cuda"], "bert3-int8": ["cpu"]}


def test_table_has_every_variant_and_the_reason_if_not_shipped(quality: Quality) -> None:
    console = Console(width=WIDTH, file=io.StringIO(), record=True)
    print_tables(console, main_tables(quality))
    words = console.export_text()
    assert [name for name in quality.tasks if name not in words] == []
    assert re.search(r"bert3-int8 .*950.*default \(cpu, cuda\)", words)
    assert re.search(r"static-fp32 .*not shipped", words)
    assert any(line.startswith("static-fp32 is not shipped: text 0.7, at least 0.9") for line in remarks(quality))


def test_ranker_and_word_pieces_are_reported(quality: Quality) -> None:
    figures = {"megabytes": 1.2, "parity": 1e-6, "ms_batch1": 0.31, "users_per_s_core": 4_000.0}
    ranker = RankerRecord(name="ranker", file="ranker.onnx", gates=(ranker_parity(1e-6),), **figures)
    changed = quality.model_copy(update={"rankers": [ranker], "pieces": VocabularySize(kept=8_000, total=30_522)})
    lines = remarks(changed)
    assert "The students have 8,000 of the checkpoint's 30,522 word pieces (--vocabulary)." in lines
    parity = "differs from PyTorch by 1.0e-06 (limit 1e-04)"
    assert any(line.startswith(f"ranker.onnx: 1.20 MB, {parity}, 0.310 ms a user") for line in lines)
    result = as_json(changed)
    assert result["pieces"] == {"kept": 8_000, "total": 30_522}
    assert [(row["name"], row["file"]) for row in result["rankers"]] == [("ranker", "ranker.onnx")]
    assert not any("word pieces" in line for line in remarks(quality))


def test_baselines_not_beaten_are_in_terminal_card_and_html(
    tmp_path: Path, quality: Quality, manifest: Manifest
) -> None:
    def compared(task: str, difference: MeanInterval) -> Comparison:
        return Comparison(
            task=task,
            subject="bert3-int8",
            own=0.1,
            baseline="transitions",
            other=0.1 - difference.mean,
            difference=difference,
            cases=100,
        )

    lost, equal = (
        compared("ids", MeanInterval(-0.02, -0.03, -0.01)),
        compared("cold", MeanInterval(-0.001, -0.01, 0.01)),
    )
    changed = quality.model_copy(
        update={"comparisons": [lost, equal, compared("text", MeanInterval(0.05, 0.01, 0.09))]}
    )
    lines = [
        "ids: bert3-int8 loses to transitions (NDCG@10 0.1000 and 0.1200, difference -0.0200 [-0.030, -0.010] over the "
        "same 100 cases).",
        "cold: bert3-int8 is not above transitions (NDCG@10 0.1000 and 0.1010, difference -0.0010 [-0.010, 0.010] over "
        "the same 100 cases).",
    ]
    assert changed.warnings == lines
    assert remarks(changed)[:2] == lines
    write_card(tmp_path / "card.md", manifest, changed)
    write_report(tmp_path / "page.html", manifest, changed)
    for line in lines:
        assert f"- {line}\n" in (tmp_path / "card.md").read_text()
        assert line in (tmp_path / "page.html").read_text()
    rows = as_json(Quality.model_validate_json(changed.model_dump_json()))["comparisons"]
    assert [(row["task"], row["loses"], row["is_above"]) for row in rows] == [
        ("ids", True, False),
        ("cold", False, False),
        ("text", False, True),
    ]
    assert quality.warnings == []


def test_all_tasks_shares_and_missing_tasks_are_in_terminal_card_and_html(
    tmp_path: Path, quality: Quality, manifest: Manifest
) -> None:
    rows = {name: row | {task: MeanInterval(0.4, 0.3, 0.5) for task in MAKERS} for name, row in quality.tasks.items()}
    shares = {
        name: {task: dict.fromkeys(names, MeanInterval(0.875, 0.825, 0.925)) for task, names in SHARES.items()}
        for name in rows
    }
    absent = {"tags": "the items have no column tags"}
    changed = quality.model_copy(update={"tasks": rows, "shares": shares, "absent": absent})
    assert Quality.model_validate_json(changed.model_dump_json()) == changed
    console = Console(width=WIDTH, file=io.StringIO(), record=True)
    show(console, changed)
    print_tables(console, main_tables(changed))
    write_card(tmp_path / "card.md", manifest, changed)
    write_report(tmp_path / "page.html", manifest, changed)
    card, page = (tmp_path / "card.md").read_text(), (tmp_path / "page.html").read_text()
    for words in (console.export_text(), card, page):
        assert all(task in words for task in TASKS)
        assert all(column in words for column in ("title first", "title in ten", "typos in ten", "negation violating"))
        assert "0.875" in words
        assert "No task tags: the items have no column tags." in words
    assert "No task tags: the items have no column tags." in remarks(changed)
    result = as_json(changed)
    assert {*result["variants"][0]["retained"]} <= {*result["variants"][0]["tasks"]} == {*TASKS}
    assert result["teacher"]["shares"]["title"]["in ten"] == {"mean": 0.875, "low": 0.825, "high": 0.925}
    assert result["baseline_shares"]["popularity"].keys() == SHARES.keys()
    assert result["absent"] == absent
    assert present(quality.tasks) == [*TASK_NAMES]  # of an older export
    assert "title first" not in _card_of(tmp_path, manifest, quality)


def _card_of(tmp_path: Path, manifest: Manifest, quality: Quality) -> str:
    write_card(tmp_path / "card.md", manifest, quality)
    return (tmp_path / "card.md").read_text()


def test_only_groups_below_popularity_are_in_the_warnings(quality: Quality) -> None:
    def compared(group: str, high: float) -> Comparison:
        difference = MeanInterval(-0.02, -0.03, high)
        figures = {"own": 0.04, "other": 0.06, "difference": difference, "cases": 50}
        return Comparison(task="ids", subject="bert3-int8", baseline="popularity", group=group, **figures)

    changed = quality.model_copy(
        update={"group_comparisons": [compared("age 50 to 73", -0.01), compared("age 7", 0.01)]}
    )
    line = "ids, age 50 to 73: bert3-int8 loses to popularity (NDCG@10 0.0400 and 0.0600, difference -0.0200 [-0.030, "
    assert changed.warnings == [f"{line}-0.010] over the same 50 cases)."]
    assert remarks(changed)[0] == changed.warnings[0]
    rows = as_json(Quality.model_validate_json(changed.model_dump_json()))["group_comparisons"]
    assert [(row["group"], row["loses"]) for row in rows] == [("age 50 to 73", True), ("age 7", False)]


def test_cold_and_ids_are_reported_with_the_share_of_new_items(
    tmp_path: Path, quality: Quality, manifest: Manifest
) -> None:
    element = MeanInterval(0.0149, 0.009, 0.021)
    pair = ColdPair(
        share=0.034,
        cold=element,
        ids=figures(0.1)["ids"],
        own_share=0.107,
        own_cold=figures(0.05)["cold"],
        own_ids=element,
    )
    changed = quality.model_copy(update={"cold_pairs": {"teacher": pair, "static-fp32": pair}, "cold_share": 0.0345})
    line = (
        "teacher: cold 0.0149 [0.009, 0.021] and ids 0.1000 [0.090, 0.110] with new items in 3.40% of the lists; "
        "unadjusted, cold 0.0500 [0.040, 0.060] and ids 0.0149 [0.009, 0.021] with 10.70%"
    )
    assert [words for words in remarks(changed) if "new items in" in words] == [line]
    write_card(tmp_path / "card.md", manifest, changed)
    write_report(tmp_path / "page.html", manifest, changed)
    card, page = (tmp_path / "card.md").read_text(), (tmp_path / "page.html").read_text()
    assert "| static-fp32 | 10.70% | 0.0500 ±0.010 | 0.0149 ±0.006 | 3.40% | 0.0149 ±0.006 | 0.1000 ±0.010 |" in card
    assert "<td>10.70%</td><td>0.0500 ±0.010</td>" in page
    console = Console(width=WIDTH, file=io.StringIO(), record=True)
    show(console, changed)
    assert "with new items in 3.45% of the lists of ids" in console.export_text()
    assert as_json(changed)["cold_pairs"]["teacher"] == pair.model_dump()
    write_card(tmp_path / "card.md", manifest, quality)
    assert "## New items" not in (tmp_path / "card.md").read_text()  # control: a data set without such cases


@pytest.mark.parametrize(("repeats", "words"), [("exclude", "left out"), ("allow", "may be recommended again")])
def test_card_says_whether_items_are_recommended_again(
    tmp_path: Path, quality: Quality, manifest: Manifest, repeats: str, words: str
) -> None:
    write_card(tmp_path / "card.md", manifest, quality.model_copy(update={"repeats": repeats}))
    assert f"items of the history {words}, ties" in (tmp_path / "card.md").read_text()


def test_gate_of_the_packaged_bundle_is_reported_when_recorded(quality: Quality) -> None:
    changed = quality.model_copy(update={"packaged": packaged(0.996)})
    line = "The packaged bundle in the server's pipeline: share of the evaluated top ten 0.996, at least 0.99."
    assert line in remarks(changed)
    assert not any("packaged" in words for words in remarks(quality))
    result = as_json(Quality.model_validate_json(changed.model_dump_json()))["packaged"]
    assert (result["value"], result["threshold"], result["passed"]) == (0.996, 0.99, True)
    assert as_json(quality)["packaged"] is None


def test_card_and_html_have_the_figures_and_no_external_parts(
    tmp_path: Path, quality: Quality, manifest: Manifest
) -> None:
    write_card(tmp_path / "card.md", manifest, quality)
    write_report(tmp_path / "page.html", manifest, quality)
    card, page = (tmp_path / "card.md").read_text(), (tmp_path / "page.html").read_text()
    for text in (card, page):
        assert "0.0990 ±0.010" in text
        assert "at least 0.9" in text
    assert not re.search(r"<script|<link|<img|src=|https?://(?!www.w3.org/2000/svg)", page)
    assert "&lt;data&gt; &amp; more" in page
    assert "Not &lt;honest&gt;" in page
    drawn = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawn) == 5  # quality by speed, loss, two of baselines, popularity
    for drawing in drawn:
        ElementTree.fromstring(drawing)  # noqa: S314 (our own)


def test_html_has_the_curve_of_every_trained_model(tmp_path: Path, quality: Quality, manifest: Manifest) -> None:
    moving = [{"epoch": 1, "loss": 0.2, "validation_ndcg": 0.10}, {"epoch": 2, "loss": 0.1, "validation_ndcg": 0.11}]
    losses = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4}]
    changed = quality.model_copy(update={"curves": {"encoder": moving, "bert3": losses}})
    write_report(tmp_path / "page.html", manifest, changed)
    page = (tmp_path / "page.html").read_text()
    for words in (
        "head: training loss",
        "encoder: training loss",
        "encoder: validation NDCG@10",
        "bert3: training loss",
    ):
        assert words in page
    assert "bert3: validation" not in page


def test_curves_are_read_from_the_stages_that_trained(tmp_path: Path) -> None:
    tiny = job(tmp_path)
    rows = [{"step": 1, "epoch": 1, "loss": 0.2}]
    for file, what in (
        ("finetune/curve.json", rows),  # the head's curve has its own field
        ("finetune/curve-encoder.json", rows),
        ("finetune/curve-1.json", rows),
        ("distil/bert3/student.json", {"name": "bert3", "losses": [0.5, 0.4]}),
    ):
        (tiny.root / file).parent.mkdir(parents=True, exist_ok=True)
        (tiny.root / file).write_text(json.dumps(what))
    student = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4}]
    assert read_curves(tiny) == {"1": rows, "encoder": rows, "bert3": student}


def test_record_without_interactions_is_shown_as_agreement(
    tmp_path: Path, quality: Quality, manifest: Manifest
) -> None:
    agreement = {"cosine": MeanInterval(0.97, 0.95, 0.98), "overlap": MeanInterval(0.9, 0.8, 0.94)}
    graph = variant("bert3-int8", 950).model_copy(update={"agreement": agreement, "on_front": True})
    record = judge(graph, {gate: figure.mean for gate, figure in agreement.items()}, allow_lossy=False)
    nothing: dict[str, object] = {
        "tasks": {},
        "probes": {},
        "lists": {},
        "groups": {},
        "targets_by_popularity": [],
        "variants": [record],
    }
    bare = quality.model_copy(update=nothing | {"protocol": "agreement", "cases": {"texts": 100}})
    write_card(tmp_path / "card.md", manifest, bare)
    write_report(tmp_path / "page.html", manifest, bare)
    line = "bert3-int8 agrees with the original checkpoint: cosine 0.9700 [0.950, 0.980], overlap 0.9000 [0.800, 0.940]"
    page = (tmp_path / "page.html").read_text()
    assert f"- {line}\n" in (tmp_path / "card.md").read_text()
    assert line in remarks(bare)
    assert line in page
    assert "Share of the checkpoint&#x27;s ten best items" in page
    assert "Intervals are 95 % over 100 texts." in page
    assert "It has 90.0% [80.0, 94.0] of the checkpoint&#39;s ten best items." in page
    row = as_json(bare)["variants"][0]
    assert (row["retained"], row["overlap"], row["cosine"]) == ({}, 0.9, 0.97)
    assert (row["overlap_interval"], row["cosine_interval"]) == ([0.8, 0.94], [0.95, 0.98])
    assert ("cosine", 0.97, True) in [(gate["gate"], gate["value"], gate["passed"]) for gate in row["gates"]]
    print_tables(Console(file=io.StringIO()), main_tables(bare))


def test_gates_that_were_not_measured_are_reported(tmp_path: Path, quality: Quality, manifest: Manifest) -> None:
    shares = {"text": None, "query": 1.0, "noisy": None, "overlap": 0.9}
    record = judge(variant("bert3-int8", 950), shares, allow_lossy=False)
    changed = quality.model_copy(update={"variants": [record]})
    line = "bert3-int8: not measured, since the teacher finds no target among its ten best: text, noisy"
    assert line in remarks(changed)
    write_card(tmp_path / "card.md", manifest, changed)
    write_report(tmp_path / "page.html", manifest, changed)
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

    monkeypatch.setattr("swiftrec.export.report.command.load_bundle", load)
    assert load_quality(tmp_path) == quality  # control
    for row in rows["variants"]:
        row["noisy_of_clean"] = None  # a figure that older exports had
    with pytest.raises(ExportError, match="its record is of an older export: run swiftrec export"):
        load_quality(tmp_path)


def test_card_has_the_contribution_of_each_part(tmp_path: Path, quality: Quality, manifest: Manifest) -> None:
    without = dict.fromkeys(PARTS, -5.0) | {"memory": -5.25, "words": -4.9}
    group = GroupRecord(query="none", events=5, cases=90, weights={"ranker": 1.0}, likelihood=-5.0, without=without)
    write_card(tmp_path / "card.md", manifest, quality.model_copy(update={"blend": BlendRecord(groups=[group])}))
    assert "| 5 events or more | 90 | -5.000 |  | +0.250 |  | -0.100 |  |" in (tmp_path / "card.md").read_text()
    write_card(tmp_path / "card.md", manifest, quality)
    assert "Parts of a score" not in (tmp_path / "card.md").read_text()
