"""What is measured apart joins `make bench`'s result: result.json, summary and report have it from then on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.machine import fingerprint
from swiftrec.benchmarks.peers.targets import SEPARATOR
from swiftrec.benchmarks.suite import html, store
from swiftrec.benchmarks.suite.raw import Raw
from swiftrec.benchmarks.suite.result import Peers, Result
from swiftrec.benchmarks.suite.selection import Selection, smoke


def join(section: str, value: Any, results: Path, bundle: BundleId) -> Path:  # noqa: ANN401 (whatever the section holds)
    """Put a section into the newest result of this machine, commit and bundle, or into a new one; rewrite its report.

    Args:
        section: `peers` (each variant replaces its own rows), `catalogue` (each size likewise) or `teacher`.
        value: what its class takes.
        results: folder of results.
        bundle: what it was measured with. Results of another bundle, and smoke runs, are named on stderr.

    Raises:
        pydantic.ValidationError: it is not what the section takes.
        OSError: it cannot be written.
        RuntimeError: the extra bench, which draws the report, is not installed; the result has the section then.
    """
    folder = _folder(section, results, bundle)
    found = store.load(folder)
    if section == "peers":
        value = merged(found.peers, Peers.model_validate(value)).model_dump()
    if section == "catalogue":
        sizes = {row["items"] for row in value}
        value = sorted([row for row in found.catalogue if row["items"] not in sizes] + value, key=_items)
    found = Result.model_validate(found.model_dump() | {section: value})
    store.save(folder, found)
    store.write(folder, html.REPORT, html.page(found, Raw.load(folder, found.points)).encode())
    return folder


def _items(row: dict[str, Any]) -> int:
    return int(row["items"])


def merged(old: Peers, new: Peers) -> Peers:
    """Both; what the new one measured, or tried, is no longer shown from the old one.

    Nor is what died there: its name begins with the variant, and the new one has all of its variants again.
    """
    variants = {row["variant"] for row in new.rows}
    rows = [row for row in old.rows if row["variant"] not in variants] + new.rows
    again = {(row["target"], row["variant"]) for row in new.tries}
    tries = [row for row in old.tries if (row["target"], row["variant"]) not in again] + new.tries
    seen = {row["target"] for row in rows}
    skipped = old.skipped
    if new.rows:
        skipped = {
            name: why
            for name, why in old.skipped.items()
            if name not in seen and name.partition(SEPARATOR)[0] not in variants
        }
    is_partial = new.is_partial or (old.is_partial and (not new.rows or len(rows) > len(new.rows)))
    return Peers.of(rows, skipped | new.skipped, tries, is_partial=is_partial)


def known_tries(results: Path, bundle: BundleId) -> list[dict[str, Any]]:
    """What `make bench-peers` with --tries found last on this machine with this bundle; empty if it was never run."""
    like = _empty(fingerprint(), bundle)
    found = Selection(list(store.every(results)), like).newest(lambda one: bool(one.peers.tries))
    return found[1].peers.tries if found else []


def _folder(section: str, results: Path, bundle: BundleId) -> Path:
    """That of the newest result that the section can join, or a new one."""
    new = _empty(fingerprint(), bundle, f"only {section} was measured")
    found = Selection(list(store.every(results)), new).newest(
        lambda one: one.commit == new.commit and one.machine["cpu"] == new.machine["cpu"], unfit=smoke
    )
    if found:
        return found[0]
    folder = store.new_folder(results, new.machine)
    store.save(folder, new)
    return folder


def _empty(machine: dict[str, str], bundle: BundleId, reason: str = "") -> Result:
    """A result of now without any figure."""
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    facts = {"started": started, "machine": machine, "commit": machine["commit"], "bundle": bundle.fields()}
    return Result(**facts, settings={}, reason=reason)
