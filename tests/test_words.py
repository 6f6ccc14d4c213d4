"""The house speaks the field's words: the old private ones are gone."""

from __future__ import annotations

import pytest

from tests.words import CLASSES, LOCALS, ROOT, TERMS, files, uses


@pytest.mark.parametrize("folder", ["server", "export", "benchmarks", "swiftrec", "tests", "docs", "proto", "*.md"])
def test_no_old_word_is_left(folder: str) -> None:
    assert [use for name in files(folder) for use in uses(name, (ROOT / name).read_text())] == []


@pytest.mark.parametrize("word", sorted({*TERMS, *CLASSES}))
def test_old_word_is_detected(word: str) -> None:
    source = f"class {word}: ...\n" if word in CLASSES else f"# The {word}.\n"
    assert {use.word for use in uses("a.py", source)} == {word}


@pytest.mark.parametrize("name", sorted(LOCALS))
def test_vague_local_name_is_detected(name: str) -> None:
    source = f"def read({name}: int) -> int:\n    return {name}\n"
    assert name in {use.word for use in uses("a.py", source)}


def test_longer_words_are_not_matched() -> None:
    assert list(uses("a.py", "# The marshalling of trunked data, a stubborn outline.\nlone = 1\n")) == []


def test_class_name_is_allowed_in_prose() -> None:
    assert list(uses("a.py", '"""Takes a request; "404 Not Found" if there is none."""\n')) == []


def test_name_used_in_bundles_is_allowed_in_its_files() -> None:
    source = 'NAMES = ("newcomer",)\n'
    assert list(uses("server/parts.py", source)) == []
    assert [use.word for use in uses("server/app.py", source)] == ["newcomer"]
    assert [use.word for use in uses("server/parts.py", "# The desk.\n")] == ["desk"]
