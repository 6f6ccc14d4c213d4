"""Old private words and what to write instead: `python -m tests.words [PATH ...]` lists where one is still used."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
_SUFFIXES = {".py", ".md", ".toml", ".proto", ".jinja", ".yaml"}
# Generated, history, or this list and its test.
_EXEMPT = (
    "server/pb/",
    "benchmarks/LOG.md",
    "CHANGELOG.md",
    "benchmarks/results/",
    "constraints.txt",
    "tests/words.py",
    "tests/test_words.py",
)

LOCALS = frozenset({"of", "some", "found", "place", "one", "out", "most", "told", "asked", "wanted", "narrow"})
"""Names of variables and parameters that say nothing: a name is a noun for what it holds."""

TERMS: Mapping[str, str] = MappingProxyType(
    {
        # server
        "desk": "unary dispatcher",
        "visit": "unary call",
        "outbox": "result buffer",
        "tally": "histogram",
        "bell": "wake-up",
        "hurry": "abort, cancel_in_flight",
        "crowd": "cache pressure, or validation users",
        "every_cpu": "widened affinity",
        "patience_s": "time_left_s",
        "batches_left": "batches",
        "jobs_refused": "jobs_rejected",
        "batch_jobs": "batch_size",
        "jobs_dropped": "requests_dropped",
        "waiting_jobs": "queue_requests",
        "on_silence": "on_timeout",
        "turn_s": "change_timeout_s",
        # export
        "trunk": "backbone",
        "lesson": "distillation data",
        "absorb": "tune the encoder",
        "absorber": "encoder tuner",
        "newcomer": "item without interactions, cold item",
        "newcomers": "items without interactions, cold items",
        "uphill": "fgm_step",
        "adversary": "adversarial perturbation, FGM",
        "apart": "item loss, separate",
        "ladder": "variants by size",
        "mistakes": "issues",
        # benchmarks
        "aims": "promises",
        # everywhere
        "told": "reported, passed",
        "took": "interacted with",
        "wanted": "target, required",
        "anew": "again",
        "whoever": "clients that",
        "shall": "must, will",
        "somebody": "a client, a user",
        "nobody": "no client, no user",
        "of its own": "own, separate",
        "so many": "a number",
        "that is there": "existing",
        "who wants": "for",
        "as it is told": "as configured",
    }
)
"""Words with a standard term, matched whole, without regard to case and as parts of snake_case names."""

CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "Takes": "MessageSink",
        "Doors": "ConcurrencyLimiter",
        "Awaited": "UnaryMethod",
        "Journal": "AccessLog",
        "Caller": "ClientContext",
        "Methods": "MethodTable",
        "Known": "ScoringInput",
        "Timed": "Expirable",
        "Deadlines": "TimerWheel",
        "Wish": "EncodeRequest",
        "Finder": "RankAndSearch",
        "Refusal": "RejectReason",
        "Flushed": "flush_denormals",
        "Kind": "a name that says of what",
        "Ended": "CallRecord",
        "World": "TrainingData",
        "Lesson": "DistillationData",
        "Guides": "TeacherEnsemble",
        "Crowd": "ValidationUsers",
        "Bank": "TextFeatures",
        "Ground": "EvaluationContext",
        "Subject": "Recommender",
        "Mistakes": "Issues",
        "Facts": "Manifest, Profile",
        "Asked": "Query, Request",
        "Found": "Result",
    }
)
"""Class names with a standard term."""

_SIGNALS = frozenset({"newcomer"})  # the name of a signal in the `blend` of every bundle's manifest
_OLD_FLAGS = frozenset({"trunk", "ladder"})
_OLD_KEYS = frozenset({"wanted"})
_OLD_METRICS = frozenset({"batches_left", "jobs_refused", "batch_jobs", "jobs_dropped", "waiting_jobs"})
_OLD_SETTINGS = frozenset({"batch_jobs", "waiting_jobs"})
_OLD_FIELDS = frozenset({"batch_jobs"})  # of the results of benchmarks
ALLOWED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "export/blend/": _SIGNALS,
        "server/catalogue/blend.py": _SIGNALS,
        "server/parts.py": _SIGNALS,
        "tests/export/test_blend.py": _SIGNALS,
        "tests/server/test_index.py": _SIGNALS,
        "tests/server/test_scoring.py": _SIGNALS,
        "export/training_settings.py": _OLD_FLAGS,
        "docs/metrics.md": _OLD_METRICS,
        "server/telemetry/metrics.py": _OLD_METRICS,
        "tests/server/test_metrics_recorded.py": _OLD_METRICS,
        "server/config.py": _OLD_SETTINGS,
        "benchmarks/": _OLD_FIELDS,
        "tests/benchmarks/": _OLD_FIELDS,
        "tests/export/test_export_options.py": _OLD_FLAGS,
        "export/schema/quality.py": _OLD_KEYS,
        "tests/export/test_report_templates.py": _OLD_KEYS,
    }
)
"""Folders and files -> old words that stay in them, since bundles, results, flags and dashboards of users have them."""


class Use(NamedTuple):
    """An old word in a file."""

    file: str
    line: int
    word: str
    instead: str


_WORD = re.compile(r"(?<![^\W_])(" + "|".join(map(re.escape, TERMS)) + r")(?![^\W_])", re.IGNORECASE)


def uses(file: str, text: str) -> Iterator[Use]:
    """Every old word in a file's text; in Python also names of classes, and of variables named by one of `LOCALS`."""
    allowed = {word for start, words in ALLOWED.items() if file.startswith(start) for word in words}
    for number, line in enumerate(text.splitlines(), 1):
        for match in _WORD.finditer(line):
            if match[1].lower() not in allowed:
                yield Use(file, number, match[1], TERMS[match[1].lower()])
    if file.endswith(".py"):
        yield from _names(file, text)


def _names(file: str, text: str) -> Iterator[Use]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and token.string in CLASSES:
            yield Use(file, token.start[0], token.string, CLASSES[token.string])
    for node in ast.walk(ast.parse(text)):
        name = _bound_name(node)
        if name in LOCALS:
            yield Use(file, node.lineno, name, "a noun")  # type: ignore[attr-defined]


def _bound_name(node: ast.AST) -> str:
    if isinstance(node, ast.arg):
        return node.arg
    return node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else ""


def files(*paths: str) -> list[str]:
    """The tracked files that the list holds for."""
    listed = subprocess.run(["git", "ls-files", *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if _counts(name)]


def _counts(name: str) -> bool:
    path = ROOT / name
    has_text = path.suffix in _SUFFIXES or path.name == "Makefile"
    return has_text and path.is_file() and not path.is_symlink() and not name.startswith(_EXEMPT)


def main(paths: list[str]) -> int:
    """Print each use as file:line; the exit code is 1 if there is one."""
    everything = [use for name in files(*paths) for use in uses(name, (ROOT / name).read_text())]
    for use in everything:
        sys.stdout.write(f"{use.file}:{use.line}: {use.word} -> {use.instead}\n")
    sys.stdout.write(f"{len(everything)} old words\n")
    return 1 if everything else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
