"""The model card and report.html: headline, examples, the same rows as everywhere, and nothing empty."""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from swiftrec.export.report.charts import quality_by_speed
from swiftrec.export.report.command import WIDTH
from swiftrec.export.report.record_json import as_json
from swiftrec.export.report.render import write_card, write_report
from swiftrec.export.report.rows import comparison_rows, rows
from swiftrec.export.report.sentences import headline
from swiftrec.export.report.tables import cold_table, group_table, list_table, main_tables, print_tables, share_table
from swiftrec.export.schema.comparison import ColdPair
from swiftrec.export.schema.models import VocabularySize
from swiftrec.export.schema.quality import Example, Quality, UserGroup
from swiftrec.export.schema.record import MeanInterval
from swiftrec.server.models.bundle import Manifest
from tests.export.records import OTHER


def test_report_has_headline_and_examples_first_and_nothing_empty(
    tmp_path: Path, quality: Quality, manifest: Manifest
) -> None:
    history = Example(history=["Red lamp", "Oak <table>"], query="", items=["Chair", "Table"], untrained=["Sofa"])
    query = Example(history=[], query="garden", items=["Rake"], untrained=[])
    shown = quality.model_copy(update={"examples": [history, query]})
    write_report(tmp_path / "page.html", manifest, shown)
    page = (tmp_path / "page.html").read_text()
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    assert headline(shown) in " ".join(text.split())
    assert page.index("<h2>Examples</h2>") < page.index("<h2>Quality and speed</h2>")
    for words in ("After Red lamp, then Oak <table>", "Chair", "Sofa", "For the query “garden”", "Rake"):
        assert words in html.unescape(page)
    assert page.count("Before training") == 1  # the second example has no untrained results
    assert empty_parts(page) == []
    assert re.search(r'<tr class="default"><td>bert3-int8</td>', page)


def test_report_of_a_bare_record_has_no_empty_chart_or_section(
    tmp_path: Path, quality: Quality, manifest: Manifest
) -> None:
    empty: dict[str, object] = {"tasks": {}, "probes": {}, "lists": {}, "groups": {}, "curve": [], "other": OTHER}
    bare = quality.model_copy(update={**empty, "protocol": "agreement", "cases": {"texts": 9}})
    write_report(tmp_path / "page.html", manifest, bare)
    page = (tmp_path / "page.html").read_text()
    assert empty_parts(page) == []
    for title in ("Examples", "Learning curves", "Groups of users", "Popularity and coverage", "New items"):
        assert title not in page
    write_card(tmp_path / "card.md", manifest, bare)
    card = (tmp_path / "card.md").read_text()
    assert headline(bare) in card
    assert not re.search(r"^## .*\n+(?=## |\Z)", card, re.MULTILINE)


def empty_parts(page: str) -> list[str]:
    """Headings without content, and tables, lists, figures and charts without marks."""
    body = page[page.index("<body>") :]
    heading = r"<h2>[^<]*</h2>\s*(?=<h2>|</body>)"
    parts = r"<tbody>\s*</tbody>|<ol>\s*</ol>|<ul>\s*</ul>|<figure>\s*</figure>|<section[^>]*>\s*</section>"
    charts = [svg for svg in re.findall(r"<svg.*?</svg>", body, re.DOTALL) if not re.search("circle|polyline|bar", svg)]
    return [*re.findall(heading, body), *re.findall(parts, body), *charts]


def test_empty_parts_are_detected() -> None:
    """Negative control."""
    page = "<body><h2>A</h2><h2>B</h2><figure> </figure><tbody></tbody><svg><text>x</text></svg><h2>C</h2></body>"
    assert len(empty_parts(page)) == 5


@pytest.mark.parametrize(
    ("retained", "words"),
    [
        (
            {"text": MeanInterval(0.9, 0.85, 0.95)},
            "90.0% [85.0, 95.0] on text (the lowest) of the teacher's NDCG@10: what is lost on text is more",
        ),
        (
            {"text": MeanInterval(1, 1, 1), "query": MeanInterval(0.99, 0.97, 1.01)},
            "on query (the lowest) of the teacher's NDCG@10: no loss is more than chance.",
        ),
        (
            {"query": MeanInterval(0.99, 0.97, 1.01), "negation": MeanInterval(0.536, 0.226, 1.051)},
            "53.6% [22.6, 105.1] on negation (the lowest) of the teacher's NDCG@10: on negation there are too few",
        ),
        ({"ids": MeanInterval(1, 1, 1)}, "What it loses was not measured."),
    ],
)
def test_headline_says_what_is_served_how_fast_and_what_is_lost(
    quality: Quality, retained: dict[str, MeanInterval], words: str
) -> None:
    changed = [v.model_copy(update={"retained": retained}) if v.name == "bert3-int8" else v for v in quality.variants]
    line = headline(quality.model_copy(update={"variants": changed}))
    assert line.startswith(
        "bert3-int8 is served by default: a BERT of 3 layers in int8. On one core it encodes 950 texts/s,"
    )
    assert "8.5 times as many as the PyTorch teacher, and it has 53.2 MB instead of 90.9 MB." in line
    assert words in line


def test_terminal_card_report_and_json_have_the_same_rows(tmp_path: Path, quality: Quality, manifest: Manifest) -> None:
    names = [row.name for row in rows(quality)]
    assert names == ["popularity", "transitions", "teacher", "bert3-fp32", "bert3-int8", "static-fp32"]
    console = Console(width=WIDTH, file=io.StringIO(), record=True)
    print_tables(console, main_tables(quality))
    write_card(tmp_path / "card.md", manifest, quality)
    write_report(tmp_path / "page.html", manifest, quality)
    printed = re.findall(r"^│ (\S+)", console.export_text(), re.MULTILINE)
    card = re.findall(r"^\| ([a-z]\S+) \|", (tmp_path / "card.md").read_text(), re.MULTILINE)
    page = re.findall(r"<tr[^>]*><td>([^<]+)</td>", (tmp_path / "page.html").read_text())
    timed = names[2:]  # the teacher and the variants
    assert printed == names + timed
    assert card[: len(printed)] == printed
    assert page[: len(printed)] == printed
    result = as_json(quality)
    listed = [*result["baselines"], "teacher", *(v["name"] for v in (*result["variants"], *result["not_shipped"]))]
    assert sorted(listed) == sorted(names)


def test_main_tables_have_tasks_or_speeds_and_no_blank_rows(quality: Quality) -> None:
    by_task, by_speed = main_tables(quality)
    assert by_task.header == ["", "ids", "text", "query", "noisy", "cold"]
    assert by_speed.header[:5] == ["", "texts/s", "x teacher", "ms at 1", "MB"]
    for table in (by_task, by_speed):
        assert [row for row in table.rows if not all(row[1:5])] == []
    bare, speeds = main_tables(quality.model_copy(update={"tasks": {}}))
    assert not bare.rows
    assert len(speeds.rows) == 4


def test_shares_new_items_lists_and_groups_come_from_the_same_rows(quality: Quality) -> None:
    figure = MeanInterval(0.1, 0.09, 0.11)
    pair = ColdPair(share=0.03, cold=figure, ids=figure, own_share=0.1, own_cold=figure, own_ids=figure)
    group = UserGroup(attribute="age", group="7", cases=50, ndcg=figure)
    changed = quality.model_copy(
        update={
            "shares": {"bert3-int8": {"title": {"first": figure}}},
            "cold_pairs": {"teacher": pair},
            "groups": {"teacher (ids)": [group], "bert3-int8 (text)": [group]},
        }
    )
    by_name = {row.name: row for row in rows(changed)}
    assert by_name["teacher"].cold_pair == pair
    assert by_name["popularity"].lists == quality.lists["popularity"]
    assert by_name["bert3-int8"].groups == {"text": [group]}
    every = [*by_name.values()]
    assert [row[0] for row in share_table(every).rows] == ["bert3-int8"]
    assert [row[0] for row in cold_table(every, 0.03).rows] == ["teacher"]
    assert [row[0] for row in list_table(every).rows] == [*by_name]
    assert group_table(every).header == ["", "users", "teacher (ids)", "bert3-int8 (text)"]
    assert [[*row] for row in group_table(every).rows] == [["age 7", "50", "0.1000 ±0.010", "0.1000 ±0.010"]]
    compared = comparison_rows(changed.tasks, changed.shares, changed.cold_pairs)
    assert {row.name: row.tasks for row in compared} == changed.tasks
    assert [[*row] for row in cold_table(compared, 0.03).rows] == [[*row] for row in cold_table(every, 0.03).rows]


def test_points_of_the_chart_have_one_colour_and_say_in_words_what_they_are(quality: Quality) -> None:
    chart = quality_by_speed(quality)
    assert {*re.findall(r'class="dot (s\d)"', chart)} == {"s0"}
    assert "bert3-int8 (default)" in chart
    assert "static-fp32 (not shipped)" in chart


def test_record_of_an_older_export_with_nested_variants_is_read(quality: Quality) -> None:
    """Exports before the fields of a graph and of its results were one record."""
    row = json.loads(quality.model_dump_json())
    graph = [
        "name",
        "student",
        "precision",
        "device",
        "file",
        "layers",
        "hidden",
        "form",
        "megabytes",
        "texts_per_s_core",
        "ms_batch1",
        "cosine",
    ]
    graph += ["speedup_vs_teacher_pytorch", "batch_invariance", "texts_per_s_range", "speedup_range", "exception"]
    for old in row["variants"]:
        inner = {name: old.pop(name) for name in graph} | {"gates": old.pop("graph_gates"), "refused": ""}
        old["variant"] = inner
        for gate in old["gates"]:
            del gate["comparison"], gate["is_loss"]
    row["wanted_by_popularity"] = row.pop("targets_by_popularity")
    row["pieces"] = {"kept": 8_000, "of": 30_522}
    del row["examples"]
    sized = quality.model_copy(update={"pieces": VocabularySize(kept=8_000, total=30_522)})
    assert Quality.model_validate(row) == sized
