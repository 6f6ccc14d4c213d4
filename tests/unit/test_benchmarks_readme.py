"""README's results are the committed reference's, never typed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.suite import readme
from tests.conftest import ROOT
from tests.results import catalogue_row, result


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
    for changed in ({"is_partial": True}, {"failures": ["x"]}, {"settings": {"size": "smoke"}}):
        with pytest.raises(RuntimeError, match="no reference"):
            readme.slim(result(**changed), _summary())


def test_table_shows_the_figures_of_the_reference() -> None:
    made = readme.table(json.loads(json.dumps(readme.slim(result(), _summary()))))
    assert "| mixed | 1000 + 150 + 100 = 1250 | 0.92 (0.91-0.93) | 800 (792-808) | 50 (50-50) |" in made


def test_table_has_peers_catalogue_and_teacher_where_they_were_measured() -> None:
    found = readme.slim(result(), _summary()) | {
        "req_per_s_core": {
            "swiftrec unary": {"int8": 400.0},
            "swiftrec": {"int8": 999.0},
            "mosec": {"int8": 500.0},
            "triton": {"int8": 300.0},
        },
        "p99_ms_at_70": {"mosec": {"int8": 12.0}},
        "peers_skipped": {"ray": "it does not install"},
        "catalogue": [asdict(catalogue_row())],
        "teacher": {"rate_ratio": [9.0, 11.0], "cpu_ratio": [4.0], "p99_bound_ms": 100.0},
    }
    made = readme.table(found)
    assert made.index("| mosec | int8 | 500 | 12 |") < made.index("| swiftrec unary | int8 | 400 |  |")
    assert "| ray | not run: it does not install | | |" in made
    assert "| 1,000 | exact | search, all | 0.9951 | 1.00 | 2.00 | |" in made
    assert "| 1,000 | exact | Recommend, ids | | 1.00 | 2.00 | 1.10 (1.00-1.20) |" in made
    assert "999" not in made
    assert "10.0 (9.0-11.0) times the rate" in made


def _summary() -> dict[str, Any]:
    parts: dict[str, Any] = {name: {} for name in ("req_per_s_core", "p99_ms_at_70", "peers_skipped", "teacher")}
    return parts | {"catalogue": [], "sources": {"run": "a"}}
