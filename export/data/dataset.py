"""A data set: items, which stay on disk, and each user's history, oldest first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.lazy import LineFile
from swiftrec.export.data.order import BY_TIME, UNORDERED, Order

_ITEMS = "items.jsonl"
_SHUFFLE_SEED = 2_026  # fixed, so that bundles with other seeds stay comparable


@dataclass(frozen=True, slots=True)
class DatasetItem:
    """One item of the catalogue."""

    id: str
    title: str
    text: str
    attributes: dict[str, list[str]]


class ItemFile(LineFile[DatasetItem]):
    """The items of a file that `write_items` wrote: 8 bytes of memory each, read on access."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _item)


def _item(line: bytes) -> DatasetItem:
    return DatasetItem(**json.loads(line))


def write_items(items: Iterable[DatasetItem], folder: Path) -> ItemFile:
    """Write `items.jsonl` and open it."""
    with (folder / _ITEMS).open("w", encoding="utf-8") as file:
        for item in items:
            file.write(line_of(item))
    return ItemFile(folder / _ITEMS)


def line_of(item: DatasetItem) -> str:
    """The item's line in `items.jsonl`."""
    row = {"id": item.id, "title": item.title, "text": item.text, "attributes": item.attributes}
    return json.dumps(row, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Probe:
    """A query in plain words and the attribute value of its target items."""

    phrase: str
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Items and histories.

    Args:
        items: the catalogue.
        histories: item positions of each user, int64, oldest first; no histories if there are no interactions.
        nouns: words for "item" in this domain.
        probes: queries whose targets are known.
        source: where the data come from; part of the bundle.
        licence: of the data; part of the bundle.
        times: seconds of the same interactions, float64; empty unless `order` is by time.
        users: attribute -> group of each user ("gender" -> "F"); may be empty.
        ratings: ratings of the same interactions, float64, NaN for one without; may be empty.
        order: what decides which interaction of a user is first.
    """

    items: Sequence[DatasetItem]
    histories: list[NDArray[np.int64]]
    nouns: list[str]
    probes: list[Probe]
    source: str
    licence: str
    times: list[NDArray[np.float64]] = field(default_factory=list)
    users: list[dict[str, str]] = field(default_factory=list)
    ratings: list[NDArray[np.float64]] = field(default_factory=list)
    order: Order = BY_TIME

    def without_order(self) -> Dataset:
        """The data set with shuffled histories (and their ratings), by a fixed seed, and without times."""
        rng = np.random.default_rng(_SHUFFLE_SEED)
        orders = [rng.permutation(len(history)) for history in self.histories]
        return replace(
            self,
            histories=[row[order] for row, order in zip(self.histories, orders, strict=True)],
            ratings=[row[order] for row, order in zip(self.ratings, orders, strict=True)] if self.ratings else [],
            times=[],
            order=UNORDERED,
        )

    def save(self, folder: Path) -> None:
        """Write `items.jsonl` (unless the items are there already), `histories.npz` and `dataset.json`."""
        if not (isinstance(self.items, ItemFile) and self.items.path == folder / _ITEMS):
            write_items(self.items, folder)
        lengths = np.array([len(h) for h in self.histories], dtype=np.int64)
        flat = np.concatenate([*self.histories, np.empty(0, np.int64)])
        times = np.concatenate([*self.times, np.empty(0)])
        arrays = {"lengths": lengths, "items": flat, "times": times}
        if self.ratings:
            arrays["ratings"] = np.concatenate(self.ratings)
        np.savez(folder / "histories.npz", **arrays)  # type: ignore[arg-type] # its signature has allow_pickle, too
        fields = {
            "nouns": self.nouns,
            "probes": [asdict(p) for p in self.probes],
            "source": self.source,
            "licence": self.licence,
            "users": self.users,
            "order": self.order,
        }
        (folder / "dataset.json").write_text(json.dumps(fields, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Dataset:
        """Read what `save` wrote."""
        with np.load(folder / "histories.npz", allow_pickle=False) as arrays:
            ends = np.cumsum(arrays["lengths"])[:-1]
            histories = np.split(arrays["items"], ends) if len(arrays["lengths"]) else []
            times = np.split(arrays["times"], ends) if len(arrays["times"]) else []
            ratings = np.split(arrays["ratings"], ends) if "ratings" in arrays else []
        fields: dict[str, Any] = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        probes = [Probe(**p) for p in fields.pop("probes")]
        return cls(ItemFile(folder / _ITEMS), histories, probes=probes, times=times, ratings=ratings, **fields)
