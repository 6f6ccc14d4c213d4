"""The generated parts of the documents are those of the committed reference, and a full run becomes the reference."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.peers.results import PeerResults, RoundResult
from swiftrec.benchmarks.peers.targets import BATCH, UNARY
from swiftrec.benchmarks.suite import readme, render, rows
from swiftrec.benchmarks.suite.bootstrap import Bootstrap
from swiftrec.benchmarks.suite.figures import Figures
from swiftrec.benchmarks.suite.overview import Overview, newest_results
from swiftrec.benchmarks.suite.results import MeasuredRun, RawRows
from swiftrec.benchmarks.suite.run import text
from tests.benchmarks.peers import fake, figures
from tests.benchmarks.results import (
    BUNDLE,
    catalogue_result,
    catalogue_row,
    peers_result,
    result,
    save,
    teacher_result,
)
from tests.conftest import ROOT

_FILES = ("README.md", "docs/results.md", "docs/img/throughput.svg")


@pytest.fixture
def documents(tmp_path: Path) -> list[str]:
    """Flags for a copy of the committed documents."""
    for name in _FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    paths = [str(tmp_path / name) for name in _FILES]
    return ["--readme", paths[0], "--tables", paths[1], "--chart", paths[2]]


def reference(tmp_path: Path, **changed: object) -> Overview:
    """The reference made of a run with these changes, as it is read from its file."""
    folder = save(tmp_path, "2026-01-01", result(**changed))
    path = tmp_path / "reference.json"
    path.write_text(newest_results(tmp_path, folder).as_reference())
    made = Overview.read_reference(path)
    assert made is not None
    return made


def compared(name: str, rate: float, variant: str = "int8", mode: str = "", **changed: Any) -> dict[str, Any]:  # noqa: ANN401
    measured = PeerResults(1)
    target = fake(name, mode) if mode else fake(name)
    measured.add(variant, target, RoundResult(figures(requests_per_s=rate, **changed), 1_000.0))
    return measured.rows()[0]


def test_documents_are_those_of_the_committed_reference(
    documents: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["readme", "--check", "--file", str(ROOT / readme.REFERENCE), *documents]
    assert main(flags) == 0, capsys.readouterr().err


def test_results_page_has_every_figure_of_the_reference() -> None:
    """Each workload, each server with each encoder, each search and whole request of each catalogue."""
    made = Overview.read_reference(ROOT / readme.REFERENCE)
    assert made is not None
    assert made.peers is not None
    assert made.catalogue is not None
    page = [line.split(" | ") for line in (ROOT / "docs/results.md").read_text().splitlines() if line[:1] == "|"]
    assert {row[0] for row in page} >= {f"| {name} v{w.version}" for name, w in made.run.workloads.items()}
    servers = [[f"| {row['target']}", row["variant"], row["mode"]] for row in made.peers.rows]
    sizes = [
        [f"| {row['items']:,}", row["index"], name]
        for row in made.catalogue.rows
        for name in (*row["search"], *row["whole"])
    ]
    assert len(servers) + len(sizes) > 80
    assert [head for head in (*servers, *sizes) if head not in [row[:3] for row in page]] == []


def test_terminal_markdown_html_and_comparison_show_the_same_figures(tmp_path: Path) -> None:
    made = reference(tmp_path, memory_mb=120.0)
    workloads, once, _ = rows.tables(made.run)
    screen, page, report = text(made.run), render.results(made), render.report(made.run, RawRows())
    cells = [cell for table in (workloads, once) for row in table.rows for cell in row]
    assert len(cells) > 15
    assert [cell for cell in cells if not all(cell in shown for shown in (screen, page, report))] == []
    run = MeasuredRun(made.run, RawRows())
    compared = {figure.name: figure.base for figure in Figures(run, run, Bootstrap()).all()}
    for name, figure in (("memory MB", rows.MEMORY), ("start-up s", rows.START_UP)):
        estimate, shown = compared[name], rows.run_figure(made.run, figure)
        assert estimate is not None
        assert shown is not None
        assert estimate.value == pytest.approx(shown.median, rel=0.01)


def test_text_that_is_no_reference_is_a_sentence(documents: list[str], tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    path.write_text('{"bench": {}}')
    with pytest.raises(RuntimeError, match=r"reference.json: cannot be read as a reference \(.*\): give --reference"):
        readme.run(readme.ReadmeSettings(file=path, _cli_parse_args=documents))


@pytest.mark.parametrize("name", _FILES)
def test_check_finds_a_figure_typed_by_hand(
    name: str, documents: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Negative control."""
    path = tmp_path / name
    text = path.read_text()
    marker = {"README.md": readme.FIGURES[1], "docs/results.md": readme.TABLES[1]}.get(name, "</svg>")
    path.write_text(text.replace(marker, f"0.99\n{marker}"))
    assert main(["readme", "--check", "--file", str(ROOT / readme.REFERENCE), *documents]) == 1
    assert f"{path} differs from" in capsys.readouterr().err
    assert main(["readme", "--file", str(ROOT / readme.REFERENCE), *documents]) == 0
    assert path.read_text() == text


def test_without_a_reference_the_documents_say_so(documents: list[str], tmp_path: Path) -> None:
    assert main(["readme", "--file", str(tmp_path / "none.json"), *documents]) == 0
    for name in _FILES[:2]:
        assert "No reference run yet" in (tmp_path / name).read_text()


def test_only_the_text_between_the_markers_is_replaced() -> None:
    text = "before\n<!-- tables -->\nold\n<!-- end of tables -->\nafter\n"
    path = Path("results.md")
    replaced = readme.replace_between(path, text, readme.TABLES, "new")
    assert replaced == "before\n<!-- tables -->\nnew\n<!-- end of tables -->\nafter\n"
    with pytest.raises(RuntimeError, match=r"results.md: the markers are missing"):
        readme.replace_between(path, "nothing", readme.TABLES, "new")


@pytest.mark.parametrize("changed", [{"is_partial": True}, {"failures": ["x"]}, {"settings": {"size": "smoke"}}])
def test_reference_is_never_a_partial_invalid_or_smoke_run(tmp_path: Path, changed: dict[str, object]) -> None:
    assert reference(tmp_path / "good").run.bundle == BUNDLE
    with pytest.raises(RuntimeError, match="cannot be the reference"):
        reference(tmp_path / "bad", **changed)


def test_reference_needs_what_is_measured_after_the_rounds(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"batch_per_s were not measured in time: raise --budget-s"):
        reference(tmp_path, batch_per_s=float("nan"))


def test_tables_show_the_figures_of_the_reference(tmp_path: Path) -> None:
    page = render.results(reference(tmp_path))
    costs = "1000 (1000-1000) | 150 (150-150) | 100 (88-112) | 1250 (1238-1262)"
    assert f"| mixed v1 | {costs} | 0.920 (0.911-0.929) | 800 (792-808) | 50.0 (49.5-50.5) |" in page
    assert "| one request in flight, p50 ms | 2.00 |" in page
    assert "| batches of 32, recommendations/s | 400 |" in page


def test_tables_say_if_figures_of_other_runs_may_be_of_another_bundle(tmp_path: Path) -> None:
    """References of earlier versions name no export key."""
    save(tmp_path, "2026-01-02", catalogue_result())
    made = reference(tmp_path)
    assert render.results(made).strip().endswith("From other runs: catalogue 2026-01-02.")
    made.run.bundle = {"name": "b", "version": "1", "variant": "int8"}
    assert "they may be of another bundle" in render.results(made)


def test_tables_have_peers_catalogue_and_teacher_if_they_were_measured(tmp_path: Path) -> None:
    rows = [compared("triton", 300.0), compared("swiftrec", 400.0, p99_ms_at_70=None), compared("mosec", 500.0)]
    peers = peers_result(rows, skipped={"ray": "it does not install"})
    save(tmp_path, "2026-01-01", peers, catalogue_result(), teacher_result())
    text = render.results(reference(tmp_path))
    mosec = "| mosec | int8 | as documented | 500 (500-500) | 0.45 (0.45-0.45) | 2.00 | 9.0 (9.0-9.0) | 0 |"
    ours = "| swiftrec | int8 | as documented | 400 (400-400) | 0.36 (0.36-0.36) | 2.00 | too few | 0 |"
    assert text.index(mosec) < text.index(ours) < text.index("| triton")
    assert "- ray: not measured: it does not install" in text
    assert "| 1,000 | exact | all | 0.9951 | 0.9963 | 0.90 | 1.00 | 2.00 |" in text
    assert "| 1,000 | exact | ids | 1.00 | 2.00 | 1.10 (1.00-1.20) |" in text
    assert "10.0 (9.0-11.0) times the rate" in text


def test_tables_say_what_went_wrong_with_each_server(tmp_path: Path) -> None:
    save(tmp_path, "2026-01-01", peers_result([compared("ray", 300.0, errors=3, wrong_answers=2, different_alone=1)]))
    page = render.results(reference(tmp_path))
    (row,) = [line.split(" | ") for line in page.splitlines() if line.startswith("| ray |")]
    assert row[-3] == "3"
    assert row[-2].startswith("2/")
    assert row[-1] == "NO |"


def test_readme_has_six_figures_with_their_commands(tmp_path: Path) -> None:
    rows = [
        compared(name, rate, variant, mode)
        for variant, factor in (("int8", 1.0), ("bert3-int8", 0.1))
        for name, mode, rate in (
            ("swiftrec", UNARY, factor * 4_000),
            ("swiftrec", BATCH, factor * 7_000),
            ("mosec", "split", factor * 6_000),
        )
    ]
    large = asdict(catalogue_row()) | {"items": 1_000_000, "index": "approximate"}
    save(tmp_path, "2026-01-01", peers_result(rows), catalogue_result([large]), teacher_result())
    table = readme.figure_table(reference(tmp_path))
    assert [value for _, value, _ in table.rows] == [
        "4,000 one a call, 7,000 in batches of 32; mosec split 6,000",
        "400 one a call, 700 in batches of 32; mosec split 600",
        "10 times",
        "2.0 ms",
        "3.1 s, 0 MB",
        "recall@10 at least 0.996, p50 at most 1.0 ms",
    ]
    assert render.figures(table).count("| `make bench") == 4


def test_chart_has_this_server_and_the_best_mode_of_each_other_one_in_both_themes(tmp_path: Path) -> None:
    rows = [
        compared("swiftrec", 400.0, mode=UNARY), compared("swiftrec", 700.0, mode=BATCH),
        compared("mosec", 500.0), compared("mosec", 600.0, mode="split"), compared("mosec", 9.0, "other"),
    ]  # fmt: skip
    save(tmp_path, "2026-01-01", peers_result(rows))
    svg = readme.throughput(reference(tmp_path))
    document = ElementTree.fromstring(svg)  # noqa: S314 (made above)
    assert document.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in svg
    texts = [element.text for element in document.iter("{http://www.w3.org/2000/svg}text")]
    labels = [text for text in texts if text and ("swiftrec" in text or "mosec" in text)]
    assert labels == ["swiftrec, batches of 32", "mosec, batches split by length", "swiftrec, one request a call"]


def test_the_command_takes_a_run_and_the_peers_of_both_its_variants_into_the_documents(
    documents: list[str], tmp_path: Path
) -> None:
    """From two folders of results to the documents, as a user does it."""
    rows = [compared(name, rate, variant) for variant, rate in (("bert3-int8", 400.0), ("static", 2_000.0))
            for name in ("swiftrec", "mosec")]  # fmt: skip
    results = tmp_path / "results"
    save(results, "2026-01-01", peers_result(rows, skipped={"ray": "no wheel"}))
    run = save(results, "2026-01-02", result())
    flags = [*documents, "--file", str(tmp_path / "reference.json")]
    assert main(["readme", *flags, "--reference", str(run)]) == 0
    text = (tmp_path / "docs/results.md").read_text()
    heads = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith(("| swiftrec", "| mosec"))]
    assert heads == [[f"| {name}", variant] for variant in ("bert3-int8", "static") for name in ("swiftrec", "mosec")]
    assert "- ray: not measured: no wheel" in text
    assert "From other runs: peers 2026-01-01." in text
    assert "| mixed v1 | 1000 (1000-1000) | 150 (150-150) |" in text
    assert "| p50 with one request in flight | 2.0 ms | `make bench` |" in (tmp_path / "README.md").read_text()
    assert main(["readme", "--check", *flags]) == 0
