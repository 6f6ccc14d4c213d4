"""Stage `blend`: memory and words of the catalogue, and the weights of a score's parts, fitted on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.blend.fit import Choices, fit_weights, likelihood
from swiftrec.export.blend.inherit import fit_whole_memory
from swiftrec.export.blend.memory import fit_memory
from swiftrec.export.blend.names import same_item_threshold
from swiftrec.export.blend.newcomers import raise_newcomers
from swiftrec.export.blend.queries import Queries
from swiftrec.export.blend.requests import GROUPS, Asked, Group, requests_of
from swiftrec.export.blend.signals import Items, Signals
from swiftrec.export.blend.words import make_words
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.popularity import interaction_counts, popularity
from swiftrec.export.data.split import Cases, Split
from swiftrec.export.data.text_variants import Texts, TextVariant
from swiftrec.export.evaluate.backends import PooledTexts, teacher_encode, teacher_items, torch_rank
from swiftrec.export.evaluate.recommender import Encode, Rank, Retrieval
from swiftrec.export.models.encoder import teacher_checkpoint
from swiftrec.export.models.sentence_space import load_sentence_map, load_sentences
from swiftrec.export.models.teacher import load_teacher
from swiftrec.export.schema.blend import BLEND, BlendRecord, GroupRecord
from swiftrec.export.stages.runner import Job
from swiftrec.export.train.cold_start import FOLDS, Placed
from swiftrec.export.train.pretrained import parts_of
from swiftrec.export.train.validation import some_users
from swiftrec.server.catalogue.blend import QUERIES, Blend, Known, Query, Scoring, Weights
from swiftrec.server.catalogue.history import Names
from swiftrec.server.catalogue.sparse import Memory
from swiftrec.server.catalogue.words import Words
from swiftrec.server.models.networks import Kind, UserSequence, ranker_half, sentence_half
from swiftrec.server.parts import PARTS

Vectors = NDArray[np.float32]

_BATCH = 32


def run(job: Job, out: Path) -> None:
    """Write the tables of memory and words as the bundle has them, and blend.json."""
    dataset, texts = Dataset.load(job.folder("data")), Texts.load(job.folder("data"))
    items = len(dataset.items)
    words = make_words(texts.variants[TextVariant.TITLE], texts.variants[TextVariant.FULL])
    words.save(out)
    sentences = load_sentences(job.folder("finetune"), len(texts.all))
    titles = sentences[texts.rows.start(TextVariant.TITLE) :][:items]
    same = same_item_threshold(titles, sentences[:items], list(texts.variants[TextVariant.TITLE]), job.settings.seed)
    if not dataset.histories:
        Memory.empty(items).save(out)
        record = BlendRecord(same_item=same)
    else:
        split = parts_of(job, dataset)
        counts = popularity(split.known, split.train, items)
        fit_whole_memory(split.known, counts, sentences[:items], split.order).save(out)
        groups = _fit(job, _Source.load(job, dataset, split, texts, words, sentences))
        record = BlendRecord(groups=groups, same_item=same)
    (out / BLEND).write_text(record.model_dump_json(indent=1))


def load_retrieval(
    folder: Path, memory: Memory, titles: Sequence[str], sentences: Vectors, counts: NDArray[np.int64]
) -> Retrieval:
    """The parts of a score beside the ranker: words and weights as this stage wrote them into `folder`, the rest given.

    Args:
        folder: the stage's.
        memory: the tables of the stage, or others that were fitted in the same way.
        titles: of the items.
        sentences: sentence vectors of the items' texts, float32 [items, s].
        counts: number of events of each item, 0 for new ones, [items].
    """
    record, items = BlendRecord.load(folder), len(counts)
    words = Words.load(folder, items)
    scoring = Scoring(Blend.read(record.rows), memory, words, items)
    names = Names(words, sentences, record.same_item, titles.__getitem__)
    return Retrieval(scoring, names, sentences, counts)


def _fit(job: Job, source: _Source) -> list[GroupRecord]:
    """Weights of every kind of request."""
    choices: dict[Group, list[Choices]] = {}
    with job.progress("weigh the parts", len(GROUPS)) as step:
        for group in GROUPS:
            if found := source.choices(group):
                choices[group] = found
            step()
    weights = _weights(choices)
    return [_record(group, some, weights[group]) for group, some in choices.items()]


def _weights(choices: Mapping[Group, Sequence[Choices]]) -> dict[Group, Weights]:
    """Of all histories and of all queries first, then of each group near them."""
    found: dict[Group, Weights] = {}
    for query in QUERIES:
        groups = [group for group in choices if group.query == query]
        together = fit_weights([one for group in groups for one in choices[group]])
        found |= {group: fit_weights(choices[group], together) for group in groups}
    return found


def _record(group: Group, choices: Sequence[Choices], fitted: Weights) -> GroupRecord:
    raised = raise_newcomers(choices, fitted)
    return GroupRecord(
        query=group.query,
        events=group.events,
        cases=len(choices),
        weights=asdict(raised),
        likelihood=likelihood(choices, fitted),
        without={part: likelihood(choices, fitted.without([part])) for part in PARTS},
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """What requests of the users who validate are made from: everything that training saw, and nothing else.

    Args:
        cases: histories, and what was wanted behind each.
        queries: a text that asks for what was wanted, for each case.
        encode: both halves of a text's vector.
        rank: the teacher's ranker.
        items: what is known of the items.
        signals: makes choices of requests.
        kind_of: what a query is.
        seed: of the draws.
        max_history: events that the ranker reads.
    """

    cases: Cases
    queries: list[str]
    encode: Encode
    rank: Rank
    items: Items
    signals: Signals
    kind_of: Callable[[str], Query]
    seed: int
    max_history: int

    @classmethod
    def load(cls, job: Job, dataset: Dataset, split: Split, texts: Texts, words: Words, sentences: Vectors) -> _Source:
        folder, plan, seed, size = job.folder("finetune"), job.settings.plan, job.settings.seed, texts.rows.items
        teacher = load_teacher(folder)
        vectors = teacher_items(folder)
        placed = Placed.load(folder) or Placed(vectors, np.full(size, FOLDS))  # a fold that is never new
        counts = interaction_counts(split.train, size).astype(np.float64)
        items = Items(vectors, placed.vectors, placed.folds, sentences[:size], counts)
        scoring = Scoring(Blend([]), fit_memory(split.train, size, split.order), words, size)
        untouched = PooledTexts(job.folder("data") / "checkpoint", plan.max_tokens)
        tuned = PooledTexts(teacher_checkpoint(job), plan.max_tokens)
        cases = some_users(split.validation, size)
        queries = Queries(dataset.items, dataset.nouns, seed).ask(cases.targets.tolist(), texts)
        return cls(
            cases,
            queries,
            teacher_encode(tuned, teacher, untouched, load_sentence_map(folder)),
            torch_rank(teacher),
            items,
            Signals(items, scoring, FOLDS, seed),
            scoring.query,
            seed,
            plan.max_history,
        )

    def choices(self, group: Group) -> list[Choices]:
        """Of a group's requests."""
        asked = list(requests_of(group, self.cases, self.queries, self.kind_of, self.seed))
        if not asked:
            return []
        texts = list(dict.fromkeys(one.query for one in asked if one.query))
        vectors = dict(zip(texts, self.encode(texts), strict=True)) if texts else {}
        return self.signals.choices(asked, self._users(asked, vectors), lambda one: self._known(one, vectors))

    def _users(self, asked: Sequence[Asked], vectors: Mapping[str, Vectors]) -> Vectors:
        """The ranker's user vectors, [requests, d]."""
        users = np.empty((len(asked), self.items.vectors.shape[1]), np.float32)
        for start in range(0, len(asked), _BATCH):
            batch = asked[start : start + _BATCH]
            users[start : start + _BATCH] = self.rank([self._sequence(one, vectors) for one in batch])
        return users

    def _sequence(self, asked: Asked, vectors: Mapping[str, Vectors]) -> UserSequence:
        history = asked.history[-self.max_history :]
        events, kinds = list(self.items.vectors[history]), [Kind.ITEM] * len(history)
        if asked.query:
            query = ranker_half(vectors[asked.query], self.items.vectors.shape[1])
            events, kinds = [*events, query], [*kinds, Kind.QUERY]
        return UserSequence(events, kinds)

    def _known(self, asked: Asked, vectors: Mapping[str, Vectors]) -> Known:
        history = asked.history[-self.max_history :]
        return Known(
            events=len(history),
            items=history,
            sentences=self.items.sentences[history],
            query=asked.query,
            query_sentence=sentence_half(vectors[asked.query], self.items.vectors.shape[1]) if asked.query else None,
        )
