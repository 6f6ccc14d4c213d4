"""README's results are the committed reference's, never typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.suite import readme
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
