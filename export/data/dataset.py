"""A data set in memory and on disk: items, and each user's items oldest first."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the catalogue."""

    id: str
    title: str
    text: str
    attributes: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Probe:
    """A request in plain words and the attribute value that a good answer carries."""

    phrase: str
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Items and histories.

    `histories[u]` holds item positions (int64, oldest first) of one user; `nouns` are words for "item" in this domain;
    `licence` and `source` are carried into the bundle.
    """

    items: list[Item]
    histories: list[NDArray[np.int64]]
    nouns: list[str]
    probes: list[Probe]
    source: str
    licence: str

    def save(self, folder: Path) -> None:
        """Write `items.jsonl`, `histories.npz` and `dataset.json`."""
        with (folder / "items.jsonl").open("w", encoding="utf-8") as file:
            for item in self.items:
                file.write(json.dumps(asdict(item), ensure_ascii=False) + "\n")
        lengths = np.array([len(h) for h in self.histories], dtype=np.int64)
        flat = np.concatenate([*self.histories, np.empty(0, np.int64)])
        np.savez(folder / "histories.npz", lengths=lengths, items=flat)
        facts = {
            "nouns": self.nouns,
            "probes": [asdict(p) for p in self.probes],
            "source": self.source,
            "licence": self.licence,
        }
        (folder / "dataset.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Dataset:
        """Read what `save` wrote."""
        lines = (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()
        with np.load(folder / "histories.npz", allow_pickle=False) as arrays:
            histories = np.split(arrays["items"], np.cumsum(arrays["lengths"])[:-1])
        facts: dict[str, Any] = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        probes = [Probe(**p) for p in facts.pop("probes")]
        return cls([Item(**json.loads(line)) for line in lines], histories, probes=probes, **facts)
