"""MovieLens-100K from the recbole wheel.

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

from swiftrec.export.data.dataset import Dataset, DatasetItem, Probe
from swiftrec.export.data.issues import Issues, LeftOutItems, has_label
from swiftrec.export.data.user_groups import user_groups

_FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
_TRAILING_ARTICLE = re.compile(
    r"^(?P<rest>.*), (?P<article>The|A|An|Il|La|Le|Les|Der|Die|Das|El|Los|L')(?P<tail> \(.*\))?$"
)

_GROUPS = ("age", "gender", "occupation")

# A query for each genre in plain words; none is made by a template for training.
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


def read(wheel: Path, issues: Issues, labels: Collection[str] | None = None) -> Dataset:
    """Read items and interactions from the recbole wheel at `wheel`.

    Items that are not among `labels`, if given, are added to `issues` and left out with their interactions.
    """
    with zipfile.ZipFile(wheel) as archive:
        items, left_out = _items(archive, issues, labels)
        position = {item.id: n for n, item in enumerate(items)}
        by_user: dict[str, list[tuple[float, int, int, float]]] = {}
        for line, row in enumerate(_rows(archive, "inter")):
            if row["item_id"] in left_out:
                left_out.count_interaction(row["item_id"])
                continue
            # Half of the interactions share their time with another of the same user: the order of the file decides.
            interaction = (float(row["timestamp"]), line, position[row["item_id"]], float(row["rating"]))
            by_user.setdefault(row["user_id"], []).append(interaction)
        left_out.report_to(issues, _location)
        groups = user_groups(_rows(archive, "user"), list(by_user), _GROUPS)
    rows = [sorted(interactions) for interactions in by_user.values()]
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


def _items(
    archive: zipfile.ZipFile, issues: Issues, labels: Collection[str] | None
) -> tuple[list[DatasetItem], LeftOutItems]:
    items, left_out = [_item(row) for row in _rows(archive, "item")], LeftOutItems()
    for number, item in enumerate(items, 1):
        if not has_label(item.id, labels, _location(number), issues):
            left_out.add(item.id, number)
    return [item for item in items if item.id not in left_out], left_out


def _location(number: int) -> str:
    return f"MovieLens-100K, item {number}"


def _rows(archive: zipfile.ZipFile, kind: str) -> Iterator[dict[str, str]]:
    with io.TextIOWrapper(archive.open(f"{_FOLDER}.{kind}"), encoding="utf-8") as lines:
        names = [column.split(":")[0] for column in next(lines).rstrip("\n").split("\t")]
        for line in lines:
            yield dict(zip(names, line.rstrip("\n").split("\t"), strict=True))


def _item(row: dict[str, str]) -> DatasetItem:
    name, year = _leading_article(row["movie_title"]), row["release_year"]
    genres = [g for g in row["class"].split() if g != "unknown"]
    has_year = year.isdigit()
    title = f"{name} ({year})" if has_year else name
    attributes = {"genre": genres}
    if has_year:
        attributes |= {"year": [year], "decade": [f"{year[:3]}0s"]}
    return DatasetItem(row["item_id"], title, f"{title}. {', '.join(genres)}" if genres else title, attributes)


def _leading_article(title: str) -> str:
    """Turn "Usual Suspects, The" into "The Usual Suspects"."""
    match = _TRAILING_ARTICLE.match(title)
    return f"{match['article']} {match['rest']}{match['tail'] or ''}" if match else title
