"""What every subject is judged on, loaded once: data, split, tasks, the teacher, and what is known of the items."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.popularity import popularity
from swiftrec.export.data.repeats import counted
from swiftrec.export.data.split import Split
from swiftrec.export.data.text_variants import Texts, TextVariant
from swiftrec.export.data.user_groups import quarters_of
from swiftrec.export.evaluate.backends import PooledTexts, plain_encode, teacher_encode, teacher_items, torch_rank
from swiftrec.export.evaluate.beyond_accuracy import exposure
from swiftrec.export.evaluate.cold import Newcomers
from swiftrec.export.evaluate.metrics import Figure, Ranked, best, figure
from swiftrec.export.evaluate.recommender import Subject, Vectors
from swiftrec.export.evaluate.record import Group, Lists
from swiftrec.export.evaluate.tasks import FIRST, SHARES, VIOLATING, Tasks, make_tasks
from swiftrec.export.models.encoder import teacher_checkpoint
from swiftrec.export.models.sentence_space import load_sentence_map, load_sentences
from swiftrec.export.models.teacher import load_teacher
from swiftrec.export.stages.blend import load_retrieval
from swiftrec.export.stages.finetune import load_plain
from swiftrec.export.stages.runner import Job
from swiftrec.export.train.pretrained import parts_of
from swiftrec.server.catalogue.sparse import Memory
from swiftrec.server.models.networks import UserSequence

_MAX_FROZEN_BYTES = 1 << 30  # for the frozen encoder's vectors of items, with popularity once more
_ALL = 1 << 30
_POPULARITY_WEIGHT = 0.1  # a cosine lies within 1, log(1 + popularity) of a much taken item is about 6
EVENTS = "events"
_MIN_GROUP = 10  # cases; fewer have no interval worth printing


@dataclass(frozen=True)
class Ground:
    """One evaluation.

    `dataset` has the interactions that count (`export.data.repeats`), `counts` are each item's known events
    (`export.data.popularity`), and `texts` the unit vectors that diversity is measured by.
    `frozen`, and its vectors as `texts`, are missing if `frozen_fault` says why; then `texts` are the teacher's.
    """

    seed: int
    dataset: Dataset
    split: Split
    tasks: Tasks
    counts: NDArray[np.int64]
    texts: Vectors
    teacher: Subject
    frozen: Subject | None
    frozen_fault: str = ""

    @classmethod
    def load(cls, job: Job) -> Ground:
        """Read the earlier stages."""
        data, seed = job.folder("data"), job.settings.seed
        dataset, texts = counted(Dataset.load(data), job.settings.repeats), Texts.load(data)
        parts = parts_of(job, dataset)
        untouched = PooledTexts(job.folder("data") / "checkpoint", job.settings.plan.max_tokens)
        counts = popularity(parts.known, parts.train, len(dataset.items))
        teacher = _teacher(job, texts, untouched, counts)
        fault = frozen_fault(job, len(dataset.items))
        frozen = None if fault else _frozen(job, untouched)
        return cls(
            seed=seed,
            dataset=dataset,
            split=parts,
            tasks=make_tasks(dataset, texts, parts, seed),
            counts=counts,
            texts=frozen.items if frozen else _unit(teacher.items),
            teacher=teacher,
            frozen=frozen,
            frozen_fault=fault,
        )

    def figures(self, answers: Mapping[str, Ranked]) -> dict[str, Figure]:
        """NDCG@10 of each task."""
        return {task: figure(ranked.ndcg, self.seed) for task, ranked in answers.items()}

    def shares(self, answers: Mapping[str, Ranked]) -> dict[str, dict[str, Figure]]:
        """Task -> name -> figure: what `SHARES` names of the tasks that have answers."""
        return {
            task: {name: self._share(task, ranked, name) for name in SHARES[task]}
            for task, ranked in answers.items()
            if task in SHARES
        }

    def _share(self, task: str, ranked: Ranked, name: str) -> Figure:
        if name == VIOLATING:
            return figure(ranked.violating(self.tasks.queries[task].violating), self.seed)
        return figure(ranked.first if name == FIRST else ranked.recall, self.seed)

    def lists(self, task: str, ranked: Ranked) -> Lists:
        """Everything else about one task's lists."""
        return Lists(
            task=task,
            recall=figure(ranked.recall, self.seed),
            mrr=figure(ranked.reciprocal, self.seed),
            exposure=exposure(ranked.lists, self.counts, self.texts),
        )

    @property
    def newcomers(self) -> Newcomers:
        """The items that training never saw, with the cases of *ids* and *cold*."""
        return Newcomers(self.tasks.warm, self.tasks.cold, len(self.dataset.items), self.split.cold)

    @cached_property
    def members(self) -> dict[tuple[str, str], NDArray[np.bool_]]:
        """(attribute, group) of users -> which of the warm cases are theirs, of groups that have enough.

        Every data set has groups by `EVENTS`, the number of events before what is wanted.
        """
        warm = self.tasks.warm
        active = [{EVENTS: group} for group in quarters_of([len(history) for history in warm.histories])]
        named = self.dataset.users
        of_case = [(named[u] if named else {}) | own for u, own in zip(warm.users.tolist(), active, strict=True)]
        names = sorted({pair for groups in of_case for pair in groups.items()}, key=_by_number)
        inside = {(name, value): np.array([g.get(name) == value for g in of_case]) for name, value in names}
        return {pair: rows for pair, rows in inside.items() if rows.sum() >= _MIN_GROUP}

    def groups(self, ranked: Ranked) -> list[Group]:
        """NDCG@10 of each group of users on a warm task."""
        return [
            Group(attribute=name, group=value, cases=int(rows.sum()), ndcg=figure(ranked.ndcg[rows], self.seed))
            for (name, value), rows in self.members.items()
        ]

    def probes(self, subject: Subject) -> Figure | None:
        """Share of the top ten that carries what each probe asks for; None if the data set has no probes."""
        probes = self.dataset.probes
        if not probes:
            return None
        aimed = subject.of_queries([probe.phrase for probe in probes])
        tops = [best(row) for row in subject.scores({"probes": aimed})["probes"](slice(None))]
        carried = [
            np.mean([probe.value in self.dataset.items[n].attributes.get(probe.attribute, []) for n in top])
            for probe, top in zip(probes, tops, strict=True)
        ]
        return figure(np.array(carried), self.seed)


def _by_number(pair: tuple[str, str]) -> tuple[str, float, str]:
    """Groups in the order of the number that they begin with, the others by name."""
    name, value = pair
    first = value.split(" ")[0]
    return name, float(first) if first.isdecimal() else 0.0, value


def _teacher(job: Job, texts: Texts, untouched: PooledTexts, counts: NDArray[np.int64]) -> Subject:
    """The teacher in PyTorch; `untouched` is the checkpoint before fine-tuning, `counts` are items' known events."""
    folder, size, plan = job.folder("finetune"), texts.rows.items, job.settings.plan
    blend, titles = job.folder("blend"), texts.rows.start(TextVariant.TITLE)
    teacher, sentence_map = load_teacher(folder), load_sentence_map(folder)
    pooled = np.load(folder / "pooled.npy", mmap_mode="r", allow_pickle=False)
    sentences = load_sentences(folder, len(pooled))

    def for_ranker(rows: NDArray[np.int64]) -> Vectors:
        """Vectors of rows of `Texts.all`: way after way of writing each item."""
        with torch.inference_mode():
            vectors: Vectors = teacher.text_vectors(torch.from_numpy(np.array(pooled[rows]))).numpy()
        return vectors

    items = teacher_items(folder)
    tuned = PooledTexts(teacher_checkpoint(job), plan.max_tokens)
    return Subject(
        teacher_encode(tuned, teacher, untouched, sentence_map),
        torch_rank(teacher),
        items,
        plan.max_history,
        lambda n: np.concatenate([for_ranker(titles + n), sentences[titles + n]], axis=1),
        load_retrieval(blend, Memory.load(blend, size), texts.variants[TextVariant.TITLE], sentences[:size], counts),
    )


def _unit(vectors: Vectors) -> Vectors:
    """Scaled to length 1."""
    scaled: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-9))
    return scaled


def frozen_fault(job: Job, items: int) -> str:
    """Why nothing is compared with the frozen encoder; empty if it is."""
    width = json.loads((job.folder("data") / "checkpoint" / "config.json").read_text())["hidden_size"]
    needed = 2 * 4 * items * int(width)
    if needed <= _MAX_FROZEN_BYTES:
        return ""
    return (
        f"the untouched encoder's vectors of {items:,} items need {needed / 1e9:.1f} GB, and at most "
        f"{_MAX_FROZEN_BYTES / 1e9:.1f} GB are taken for a comparison with it"
    )


def _frozen(job: Job, untouched: PooledTexts) -> Subject:
    """The checkpoint as it came: the cosine of an item's text and the mean of the events' texts, or the query's.

    Stage `finetune` has encoded the items' texts with it, so that only requests are encoded here.
    """
    folder = job.folder("finetune")
    pooled = torch.from_numpy(np.load(folder / "pooled.npy", mmap_mode="c", allow_pickle=False))
    items = load_plain(folder, pooled, len(load_teacher(folder).residual)).numpy()
    return Subject(plain_encode(untouched), _mean_of_events, _unit(items), _ALL)


def _mean_of_events(users: list[UserSequence]) -> Vectors:
    return _unit(np.array([np.mean(user.vectors, 0) for user in users], dtype=np.float32))


def add_popularity(subject: Subject, counts: NDArray[np.int64]) -> Subject:
    """Score items by `subject` plus .1 log(1 + popularity): one more entry in each item's vector, 1 in each user's.

    Args:
        subject: ranks by the cosine of vectors of d entries.
        counts: known events of each item, [items].
    """
    width = subject.items.shape[1]
    popular = (_POPULARITY_WEIGHT * np.log1p(counts)).astype(np.float32)

    def rank(users: list[UserSequence]) -> Vectors:
        found = subject.rank([UserSequence([v[:width] for v in user.vectors], user.kinds) for user in users])
        return np.concatenate([found, np.ones((len(found), 1), dtype=np.float32)], axis=1)

    return replace(subject, rank=rank, items=np.concatenate([subject.items, popular[:, None]], axis=1))


def teacher_size(checkpoint: Path) -> tuple[int, int, float]:
    """Layers, width and megabytes of the BERT at `checkpoint`."""
    config = json.loads((checkpoint / "config.json").read_text())
    size = (checkpoint / "model.safetensors").stat().st_size / 1e6
    return config["num_hidden_layers"], config["hidden_size"], round(size, 1)
