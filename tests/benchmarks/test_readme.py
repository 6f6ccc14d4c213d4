"""README's results are the committed reference's, never typed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.peers.results import Entry, Results
from swiftrec.benchmarks.suite import readme, store
from swiftrec.benchmarks.suite.result import Peers
from tests.benchmarks.peers import BUNDLE_ID, fake, figures
from tests.benchmarks.results import BUNDLE, catalogue_row, result
from tests.conftest import ROOT


def test_readme_is_in_step_with_the_committed_reference(capsys: pytest.CaptureFixture[str]) -> None:
    settings = readme.ReadmeSettings(
        check=True, readme=ROOT / "README.md", file=ROOT / readme.REFERENCE, _cli_parse_args=[]
    )
    assert readme.run(settings) == 0, capsys.readouterr().err


def test_readme_check_catches_a_typed_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Negative control."""
    typed = (ROOT / "README.md").read_text().replace(readme.END, f"| mixed | 0.99 |\n{readme.END}")
    (tmp_path / "README.md").write_text(typed)
    settings = readme.ReadmeSettings(
        check=True, readme=tmp_path / "README.md", file=ROOT / readme.REFERENCE, _cli_parse_args=[]
    )
    assert readme.run(settings) == 1
    assert "not in step" in capsys.readouterr().err


def test_without_a_reference_readme_says_so(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"{readme.BEGIN}\n| old |\n{readme.END}\n")
    settings = readme.ReadmeSettings(readme=tmp_path / "README.md", file=tmp_path / "none.json", _cli_parse_args=[])
    assert readme.run(settings) == 0
    assert "No reference run yet" in (tmp_path / "README.md").read_text()


def test_readme_table_is_replaced_between_its_markers_only() -> None:
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    assert readme.replaced(text, "new") == f"before\n{readme.BEGIN}\nnew\n{readme.END}\nafter\n"
    with pytest.raises(RuntimeError, match="markers"):
        readme.replaced("nothing", "new")


def test_reference_is_never_a_partial_invalid_or_smoke_run() -> None:
    assert readme.slim(result(), _summary())["commit"] == "abc"
    assert readme.slim(result(), _summary())["bundle"] == BUNDLE
    for changed in ({"is_partial": True}, {"failures": ["x"]}, {"settings": {"size": "smoke"}}):
        with pytest.raises(RuntimeError, match="no reference"):
            readme.slim(result(**changed), _summary())


def test_table_shows_the_figures_of_the_reference() -> None:
    made = readme.table(json.loads(json.dumps(readme.slim(result(), _summary()))))
    assert "| mixed | 1000 + 150 + 100 = 1250 | 0.92 (0.91-0.93) | 800 (792-808) | 50 (50-50) |" in made


def test_table_says_where_figures_of_other_runs_may_be_of_another_bundle() -> None:
    """References of earlier versions name no export key."""
    found = readme.slim(result(), _summary() | {"sources": {"run": "a", "catalogue": "b"}})
    assert readme.table(found).endswith("From other runs: catalogue b.")
    old = found | {"bundle": {"name": "b", "version": "1", "variant": "int8"}}
    assert "their bundle may be another" in readme.table(old)


def test_table_has_peers_catalogue_and_teacher_where_they_were_measured() -> None:
    found = readme.slim(result(), _summary()) | {
        "peers": [compared("triton", 300.0), compared("swiftrec", 400.0, p99_ms_at_70=None), compared("mosec", 500.0)],
        "peers_skipped": {"ray": "it does not install"},
        "catalogue": [asdict(catalogue_row())],
        "teacher": {"rate_ratio": [9.0, 11.0], "cpu_ratio": [4.0], "p99_bound_ms": 100.0},
    }
    made = readme.table(found)
    mosec = "| mosec as documented | int8 | 0.45 (0.45-0.45) | 500 (500-500) | 2.0 | 9 | 0 |"
    ours = "| swiftrec as documented | int8 | 0.36 (0.36-0.36) | 400 (400-400) | 2.0 |  | 0 |"
    assert made.index(mosec) < made.index(ours) < made.index("| triton")
    assert "| ray | not measured: it does not install |" in made
    assert "| 1,000 | exact | search, all | 0.9951 | 0.9963 | 1.00 | 2.00 | |" in made
    assert "| 1,000 | exact | Recommend, ids | | | 1.00 | 2.00 | 1.10 (1.00-1.20) |" in made
    assert "10.0 (9.0-11.0) times the rate" in made


def test_table_says_of_each_server_what_went_wrong() -> None:
    bad = compared("ray", 300.0, errors=3, wrong_answers=2, different_alone=1)
    made = readme.table(readme.slim(result(), _summary()) | {"peers": [bad]})
    assert "| 3, 2 wrong answers, alone differs from batch |" in made


def test_the_command_takes_a_run_and_the_peers_of_both_its_variants_into_the_table(tmp_path: Path) -> None:
    """From two folders of results to README, as a user does it."""
    results, text = tmp_path / "results", tmp_path / "README.md"
    text.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    rows = [compared(name, rate, variant) for variant, rate in (("bert3-int8", 400.0), ("static", 2_000.0))
            for name in ("swiftrec", "mosec")]  # fmt: skip
    runs = {"2026-01-01": result(peers=Peers.of(rows, {"ray": "no wheel"}, [])), "2026-01-02": result()}
    for name, found in runs.items():
        (results / name).mkdir(parents=True)
        store.save(results / name, found)
    flags = ["--readme", str(text), "--file", str(tmp_path / "reference.json")]
    assert main(["readme", *flags, "--reference", str(results / "2026-01-02")]) == 0
    made = text.read_text()
    heads = [line.split("|")[1:3] for line in made.splitlines() if line.startswith(("| swiftrec", "| mosec"))]
    assert heads == [[f" {name} as documented ", f" {variant} "] for variant in ("bert3-int8", "static")
                     for name in ("swiftrec", "mosec")]  # fmt: skip
    assert "| ray | not measured: no wheel |" in made
    assert "From other runs: peers 2026-01-01." in made
    assert "| mixed | 1000 + 150 + 100 = 1250 | 0.92 (0.91-0.93) |" in made
    assert made.startswith("before\n")
    assert made.endswith("after\n")
    assert main(["readme", "--check", *flags]) == 0


def compared(name: str, rate: float, variant: str = "int8", **changed: Any) -> dict[str, Any]:  # noqa: ANN401
    results = Results({}, BUNDLE_ID)
    results.add(variant, fake(name), Entry(figures(requests_per_s=rate, **changed), 1_000.0))
    return results.rows()[0]


def _summary() -> dict[str, Any]:
    parts: dict[str, Any] = {name: {} for name in ("req_per_s_core", "p99_ms_at_70", "peers_skipped", "teacher")}
    return parts | {"catalogue": [], "peers": [], "sources": {"run": "a"}}
