"""A data set on disk and in memory: items, read one by one where they lie, and each user's items oldest first."""

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
_SHUFFLE_SEED = 2_026  # whatever the export's seed is, so that bundles stay comparable


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the catalogue."""

    id: str
    title: str
    text: str
    attributes: dict[str, list[str]]


class ItemFile(LineFile[Item]):
    """The items of a file that `write_items` wrote: 8 bytes of memory each, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _item)


def _item(line: bytes) -> Item:
    return Item(**json.loads(line))


def write_items(items: Iterable[Item], folder: Path) -> ItemFile:
    """Write `items.jsonl`, one item after the other."""
    with (folder / _ITEMS).open("w", encoding="utf-8") as file:
        for item in items:
            file.write(line_of(item))
    return ItemFile(folder / _ITEMS)


def line_of(item: Item) -> str:
    """The item's line in `items.jsonl`."""
    row = {"id": item.id, "title": item.title, "text": item.text, "attributes": item.attributes}
    return json.dumps(row, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Probe:
    """A request in plain words and the attribute value that a good answer carries."""

    phrase: str
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Items and histories.

    `histories[u]` holds item positions (int64, oldest first) of one user; it is empty where there are no interactions.
    `nouns` are words for "item" in this domain; `licence` and `source` are carried into the bundle. `times[u]` are the
    seconds of the same events, float64; `users[u]` names the groups that the user belongs to ("gender" -> "F");
    `ratings[u]` are the ratings of the same events, float64, as they were given, NaN for an event without one. Each of
    the three may be empty. `order` says what "oldest" means; there are times only if it is by time.
    """

    items: Sequence[Item]
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
        """The data set with each history shuffled by a fixed seed, its ratings alike, and no times."""
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
        """Write `items.jsonl` (unless the items lie there already), `histories.npz` and `dataset.json`."""
        if not (isinstance(self.items, ItemFile) and self.items.path == folder / _ITEMS):
            write_items(self.items, folder)
        lengths = np.array([len(h) for h in self.histories], dtype=np.int64)
        flat = np.concatenate([*self.histories, np.empty(0, np.int64)])
        times = np.concatenate([*self.times, np.empty(0)])
        arrays = {"lengths": lengths, "items": flat, "times": times}
        if self.ratings:
            arrays["ratings"] = np.concatenate(self.ratings)
        np.savez(folder / "histories.npz", **arrays)  # type: ignore[arg-type] # the stub has allow_pickle among them
        facts = {
            "nouns": self.nouns,
            "probes": [asdict(p) for p in self.probes],
            "source": self.source,
            "licence": self.licence,
            "users": self.users,
            "order": self.order,
        }
        (folder / "dataset.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Dataset:
        """Read what `save` wrote."""
        with np.load(folder / "histories.npz", allow_pickle=False) as arrays:
            ends = np.cumsum(arrays["lengths"])[:-1]
            histories = np.split(arrays["items"], ends) if len(arrays["lengths"]) else []
            times = np.split(arrays["times"], ends) if len(arrays["times"]) else []
            ratings = np.split(arrays["ratings"], ends) if "ratings" in arrays else []
        facts: dict[str, Any] = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        probes = [Probe(**p) for p in facts.pop("probes")]
        return cls(ItemFile(folder / _ITEMS), histories, probes=probes, times=times, ratings=ratings, **facts)
