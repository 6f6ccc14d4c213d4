"""The documents are true: paths, links, anchors, commands, flags, variables and quoted messages exist."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

import swiftrec.__main__ as program
from swiftrec import diagram
from swiftrec.export.__main__ import _COMMANDS as EXPORT_COMMANDS
from swiftrec.export.__main__ import _STAGES as EXPORT_STAGES
from tests.conftest import ROOT

_PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]} | {
    str(path.relative_to(ROOT)): path for path in sorted((ROOT / "docs").rglob("*.md"))
}
_PLACEHOLDER = re.compile(r"[A-Z][A-Z-]+")  # as NAME in artifacts/NAME
_OTHER_PROGRAMS = re.compile(r"buf curl|-m pytest|-m tests\.|\bpytest --|pip install")
_SAME_FLAGS = {"probe": "serve"}  # commands that read the settings of another
_SETTINGS = (
    "swiftrec.ask",
    "swiftrec.benchmarks.__main__",
    "swiftrec.export.seeds.settings",
    "swiftrec.server.tuning.tune",
)  # beside the commands'
_COMMON_FLAGS = {"--help", "--version"}
_GRPC_MESSAGES = {"too_many_pings"}


class Code(NamedTuple):
    """Code in a page: a span between back-quotes or a line of a block, and the line of the page that it starts on."""

    line: int
    text: str


def code_of(page: str) -> Iterator[Code]:
    """Every span and every line of a block; lines that end with a backslash are joined with the next."""
    is_block, joined = False, ""
    for number, line in enumerate(page.splitlines(), 1):
        if line.startswith("```"):
            is_block = not is_block
        elif is_block:
            joined += line.removesuffix("\\")
            if not line.endswith("\\"):
                yield Code(number, joined)
                joined = ""
        else:
            yield from (Code(number, span) for span in re.findall(r"`([^`]+)`", line))


@cache
def repository_files() -> frozenset[str]:
    """Paths of all files under version control, and of new ones that are not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    return frozenset(path for path in listed if path and (ROOT / path).exists())


@cache
def repository_names() -> frozenset[str]:
    """Names of all files and folders, without their folders."""
    return frozenset(part for path in repository_files() for part in Path(path).parts)


def is_missing(path: str) -> bool:
    """Whether a span looks like a path of the repository but is not one; spans that are no paths are not missing."""
    first, *rest = path.rstrip("/").split("/")
    if not re.fullmatch(r"[\w./*-]+", path) or any(_PLACEHOLDER.fullmatch(part) for part in rest):
        return False
    if not rest:
        return path.endswith((".py", "/")) and first not in repository_names()
    return first in {file.partition("/")[0] for file in repository_files()} and not any(ROOT.glob(path.rstrip("/")))


def missing_paths(page: str) -> list[str]:
    return [code.text for code in code_of(page) if is_missing(code.text)]


def anchor_of(heading: str) -> str:
    """The anchor that a code host gives a heading."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(page: str, folder: Path) -> list[str]:
    """Relative links whose file or heading does not exist."""
    return [link for link in re.findall(r"\]\(([^)]+)\)", page) if "://" not in link and not _resolves(link, folder)]


def _resolves(link: str, folder: Path) -> bool:
    file, _, anchor = link.partition("#")
    target = folder / file
    if not target.exists():
        return False
    headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
    return not anchor or anchor in {anchor_of(heading) for heading in headings}


@cache
def settings_by_program() -> dict[str, type[BaseSettings]]:
    """Every settings class of the project by its program, such as "swiftrec export seeds"."""
    for module in _SETTINGS:
        importlib.import_module(module)
    classes, waiting = set(), [BaseSettings]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        classes |= {kind} if kind.__module__.startswith("swiftrec.") else set()
    named = {str(kind.model_config.get("cli_prog_name")): kind for kind in classes}
    return {name: kind for name, kind in named.items() if name.startswith("swiftrec ")}


def flags_of(kind: type[BaseSettings]) -> set[str]:
    """Flags that a settings class reads."""
    names = {*kind.model_fields, *(f"no-{name}" for name in kind.model_fields)}
    for field in kind.model_fields.values():
        alias = field.validation_alias
        names |= {str(choice) for choice in alias.choices} if isinstance(alias, AliasChoices) else set()
    names |= {str(name) for name in dict(kind.model_config.get("cli_shortcuts") or {}).values()}
    return {f"--{name.replace('_', '-')}" for name in names} | _COMMON_FLAGS


def second_words(command: str) -> set[str]:
    """What may follow a command: stages and tools."""
    if command == "export":
        return {*EXPORT_COMMANDS, *EXPORT_STAGES}
    if command == "bench":
        return {name.split()[2] for name in settings_by_program() if name.startswith("swiftrec bench ")}
    return set()


def wrong_commands(page: str) -> list[str]:
    """Code that runs `swiftrec` with a command, a tool or a flag that does not exist."""
    return [code.text for code in code_of(page) if _has_wrong_command(code.text)]


def _has_wrong_command(code: str) -> bool:
    match = re.search(r"(?:^|/)swiftrec ([a-z]+)(?: ([a-z]+)\b(?!/))?([^|]*)", code)
    if not match:
        return False
    command, second, rest = match.groups()
    words = second_words(command)
    if command not in program._COMMANDS or (second and words and second not in words):
        return True
    by_program = settings_by_program()
    kind = by_program.get(f"swiftrec {command} {second}") or by_program[f"swiftrec {_SAME_FLAGS.get(command, command)}"]
    return not {*re.findall(r"--[a-z][a-z-]+", rest)} <= flags_of(kind)


def unknown_flags(page: str) -> set[str]:
    """Flags that no program of the project has."""
    known = set().union(*(flags_of(kind) for kind in settings_by_program().values()))
    ours = [code.text for code in code_of(page) if not _OTHER_PROGRAMS.search(code.text)]
    return {flag for text in ours for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)} - known


def unknown_variables(page: str) -> set[str]:
    """`SWIFTREC_...` variables that set nothing."""
    known = {
        f"{kind.model_config.get('env_prefix')}{field}".upper()
        for kind in settings_by_program().values()
        for field in kind.model_fields
    }
    return {*re.findall(r"\bSWIFTREC_[A-Z_]+[A-Z]\b", page)} - known


def wrong_make(page: str) -> list[str]:
    """Code that runs `make` with a target or variable that the Makefile does not have."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {*re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)}
    variables = {*re.findall(r"[A-Z_0-9]+", makefile.partition("override VARIABLES :=")[2].partition("\nunexport")[0])}
    runs = [code.text for code in code_of(page) if re.match(r"make( |$)", code.text)]
    return [
        run
        for run in runs
        if not ({*re.findall(r" ([a-z-]+)(?= |$)", re.sub(r'"[^"]*"', "", run))} <= targets)
        or not ({*re.findall(r" ([A-Z_]+)=", re.sub(r'"[^"]*"', "", run))} <= variables)
    ]


@cache
def server_messages() -> str:
    """Every string in the server's code, f-strings without their values, and the contract."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "proto").rglob("*.proto"))]
    for path in sorted((ROOT / "server").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
    return "\n".join(texts)


def unknown_messages(page: str) -> list[str]:
    """Quoted symptoms in the first column of the last table that the server cannot print."""
    table = page.rpartition("| symptom |")[2]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    quoted = {span for cell in cells for span in re.findall(r"`([^`]+)`", cell)} - _GRPC_MESSAGES
    return sorted(span for span in quoted if not all(part.strip() in server_messages() for part in span.split("...")))


def unknown_names(page: str) -> set[str]:
    """Names such as `STAGES` that are in none of the files which their line names."""
    wrong = set()
    for line in re.sub(r"\n +(?=\S)", " ", page).splitlines():  # a list's item is one line
        spans = re.findall(r"`([^`]+)`", line)
        texts = [(ROOT / span).read_text(encoding="utf-8") for span in spans if (ROOT / span).is_file()]
        names = [span for span in spans if re.fullmatch(r"_?[A-Z][A-Za-z_]+", span) and span != "Makefile"]
        wrong |= {name for name in names if texts and not any(re.search(rf"\b{name}\b", text) for text in texts)}
    return wrong


def recipes(page: str) -> dict[str, set[str]]:
    """The files and folders that the steps of every recipe under "How do I add ...?" create or change."""
    section = page.partition("## How do I add")[2].partition("\n## ")[0]
    parts = re.split(r"^\*\*(.+)\*\*$", section, flags=re.MULTILINE)[1:]
    return {name: _paths_of_steps(text) for name, text in zip(*[iter(parts)] * 2, strict=True)}


def _paths_of_steps(recipe: str) -> set[str]:
    steps = re.findall(r"^\d\. (.*(?:\n +.*)*)", recipe, re.MULTILINE)
    sentences = [sentence for step in steps for sentence in re.split(r"(?<=\.)\s+(?=[A-Z])", step)]
    changed = [sentence for sentence in sentences if not sentence.startswith("It may import")]
    return {span for sentence in changed for span in re.findall(r"`([^`]+)`", sentence) if (ROOT / span).exists()}


@pytest.mark.parametrize("name", _PAGES)
def test_page_names_only_what_exists(name: str) -> None:
    page = _PAGES[name].read_text(encoding="utf-8")
    assert missing_paths(page) == []
    assert broken_links(page, _PAGES[name].parent) == []
    assert unknown_variables(page) == set()
    assert wrong_make(page) == []


@pytest.mark.parametrize("name", [name for name in _PAGES if "decisions/" not in name])
def test_page_names_only_commands_and_flags_that_exist(name: str) -> None:
    page = _PAGES[name].read_text(encoding="utf-8")
    assert wrong_commands(page) == []
    assert unknown_flags(page) == set()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("`server/api/none.py`", "paths"),
        ("`none.py`", "paths"),
        ("`server/worker/*.rs`", "paths"),
        ("[a](docs/none.md)", "links"),
        ("[a](README.md#no-such-heading)", "links"),
        ("`SWIFTREC_PROT`", "variables"),
        ("`make sever`", "make"),
        ("```\nmake serve PROT=1\n```", "make"),
        ("`swiftrec serv`", "commands"),
        ("`.venv/bin/swiftrec bench hotspots`", "commands"),
        ("`swiftrec export where --port 1`", "commands"),
        ("```\nswiftrec probe \\\n  --no-such-flag\n```", "commands"),
        ("`--prot`", "flags"),
        ("| symptom |\n|---|\n| `no such sentence` | x |", "messages"),
        ("`_NO_CONTRACTS` in `server/app.py`", "names"),
    ],
)
def test_check_detects_names_that_do_not_exist(text: str, fault: str) -> None:
    faults = {
        "paths": missing_paths(text),
        "links": broken_links(text, ROOT),
        "variables": unknown_variables(text),
        "make": wrong_make(text),
        "commands": wrong_commands(text),
        "flags": unknown_flags(text),
        "messages": unknown_messages(text),
        "names": unknown_names(text),
    }
    assert faults[fault]


@pytest.mark.parametrize(
    "text",
    [
        "`server/worker/validate.py`, `validate.py`, `docs/decisions/`, `artifacts/NAME/VERSION`, `a / b`, `2 * x`",
        "[a](README.md#quick-start), [b](https://example.org/none)",
        "`swiftrec export seeds --seeds 7,8`, `.venv/bin/swiftrec bench peers --tries`, `swiftrec doctor folder`",
        '```\nmake serve HOST=0.0.0.0 SERVE_FLAGS="--tls-cert cert.pem"\n```',
        "`.venv/bin/buf curl --no-flag-of-ours`",
    ],
)
def test_check_accepts_names_that_exist(text: str) -> None:
    assert not missing_paths(text)
    assert not broken_links(text, ROOT)
    assert not wrong_make(text)
    assert not wrong_commands(text)
    assert not unknown_flags(text)


def test_troubleshooting_quotes_what_the_server_prints() -> None:
    assert unknown_messages((ROOT / "docs" / "operate.md").read_text(encoding="utf-8")) == []


def test_recipe_of_contributing_names_at_most_three_files() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert {"An RPC", "A filter condition", "A device", "An export stage", "A benchmark"} <= recipes(page).keys()
    assert {name: paths for name, paths in recipes(page).items() if not 1 <= len(paths) <= 3} == {}
    assert unknown_names(page) == set()


def test_files_of_a_recipe_are_counted_and_not_its_steps() -> None:
    steps = (
        "1. `server/app.py` and `server/config.py`\n2. `export/config.py`,\n   `export/job.py`. It may import `tests`."
    )
    files = {"server/app.py", "server/config.py", "export/config.py", "export/job.py"}
    assert recipes(f"## How do I add ...?\n\n**A thing**\n{steps}\n\nTest `tests`.\n\n## Other") == {"A thing": files}


def unlinked_reasons(readme: str) -> list[str]:
    """Reasons to use the project without a link to their test or page."""
    section = readme.partition("## Five reasons")[2].partition("\n## ")[0]
    return [reason for reason in re.split(r"^- ", section, flags=re.MULTILINE)[1:] if "](" not in reason]


def test_readme_gives_five_reasons_each_with_its_test_or_page() -> None:
    readme = _PAGES["README.md"].read_text(encoding="utf-8")
    assert readme.partition("## Five reasons")[2].partition("\n## ")[0].count("\n- ") == 5
    assert unlinked_reasons(readme) == []
    assert unlinked_reasons("## Five reasons\n\n- **Fast.** Really.\n- **Small** ([test](a)).") == [
        "**Fast.** Really.\n"
    ]


def test_pictures_follow_the_theme() -> None:
    pictures = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "img").glob("*.svg")]
    assert pictures
    assert [text for text in pictures if not re.search("prefers-color-scheme: ?dark", text)] == []


def test_diagram_is_the_generated_one() -> None:
    assert (ROOT / diagram.PICTURE).read_text(encoding="utf-8") == diagram.draw(), "run python -m swiftrec.diagram"
