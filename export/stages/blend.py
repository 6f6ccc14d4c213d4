"""Stage `blend`: memory and words of the catalogue, and the weights of a score's parts, fitted on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from swiftrec.export.blend.cold_boost import boost_cold_items
from swiftrec.export.blend.cold_memory import fit_full_memory
from swiftrec.export.blend.fit import Choices, fit_weights, likelihood
from swiftrec.export.blend.memory import fit_memory
from swiftrec.export.blend.names import same_item_threshold
from swiftrec.export.blend.queries import QueryWriter
from swiftrec.export.blend.requests import GROUPS, BlendRequest, RequestGroup, requests_of
from swiftrec.export.blend.signals import BlendItems, SignalBuilder
from swiftrec.export.blend.words import make_words
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.popularity import interaction_counts, popularity
from swiftrec.export.data.split import Cases, Split
from swiftrec.export.data.text_variants import Texts, TextVariant
from swiftrec.export.evaluate.backends import PooledTexts, teacher_encode, torch_rank
from swiftrec.export.evaluate.recommender import Encode, Rank
from swiftrec.export.job import Job
from swiftrec.export.models.encoder import teacher_checkpoint
from swiftrec.export.models.sentence_space import load_sentence_map, load_sentences
from swiftrec.export.models.teacher import load_teacher
from swiftrec.export.models.teacher_files import load_item_vectors
from swiftrec.export.schema.blend import BLEND, BlendRecord, GroupRecord
from swiftrec.export.train.cold_start import FOLDS, ColdVectors
from swiftrec.export.train.pretrained import split_of
from swiftrec.export.train.validation import index_training_users
from swiftrec.server.arrays import Vectors
from swiftrec.server.catalogue.blend import QUERIES, Blend, Query, Scoring, ScoringInput, Weights
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.catalogue.words import Words
from swiftrec.server.models.networks import EventKind, UserSequence, ranker_half, sentence_half
from swiftrec.server.parts import PARTS

_BATCH = 32


def run(job: Job, output: Path) -> None:
    """Write the tables of memory and words of the bundle, and blend.json."""
    dataset, texts = Dataset.load(job.folder("data")), Texts.load(job.folder("data"))
    items = len(dataset.items)
    words = make_words(texts.variants[TextVariant.TITLE], texts.variants[TextVariant.FULL])
    words.save(output)
    sentences = load_sentences(job.folder("finetune"), len(texts.all))
    titles = sentences[texts.rows.of(TextVariant.TITLE)]
    full = sentences[texts.rows.of(TextVariant.FULL)]
    same = same_item_threshold(titles, full, list(texts.variants[TextVariant.TITLE]), job.settings.seed)
    if not dataset.histories:
        Memory.empty(items).save(output)
        record = BlendRecord(same_item=same)
    else:
        split = split_of(job, dataset)
        counts = popularity(split.known, split.train, items)
        fit_full_memory(split.known, counts, full, split.order).save(output)
        groups = _fit(job, _RequestSource.load(job, dataset, split, texts, words, sentences))
        record = BlendRecord(groups=groups, same_item=same)
    (output / BLEND).write_text(record.model_dump_json(indent=1))


def _fit(job: Job, source: _RequestSource) -> list[GroupRecord]:
    """Weights of every kind of request."""
    choices: dict[RequestGroup, list[Choices]] = {}
    with job.progress("weigh the parts", len(GROUPS)) as step:
        for group in GROUPS:
            if group_choices := source.choices(group):
                choices[group] = group_choices
            step()
    weights = _weights(choices)
    return [_record(group, group_choices, weights[group]) for group, group_choices in choices.items()]


def _weights(choices: Mapping[RequestGroup, Sequence[Choices]]) -> dict[RequestGroup, Weights]:
    """Of all groups with the same kind of query first, then of each group near those."""
    weights: dict[RequestGroup, Weights] = {}
    for query in QUERIES:
        groups = [group for group in choices if group.query == query]
        together = fit_weights([each for group in groups for each in choices[group]])
        weights |= {group: fit_weights(choices[group], together) for group in groups}
    return weights


def _record(group: RequestGroup, choices: Sequence[Choices], fitted: Weights) -> GroupRecord:
    boosted = boost_cold_items(choices, fitted)
    return GroupRecord(
        query=group.query,
        events=group.events,
        cases=len(choices),
        weights=asdict(boosted),
        likelihood=likelihood(choices, fitted),
        without={part: likelihood(choices, fitted.without([part])) for part in PARTS},
    )


@dataclass(frozen=True, slots=True)
class _RequestSource:
    """The sources of the validation users' requests: only data that training has seen.

    Args:
        cases: histories with their targets.
        queries: a query for the target of each case.
        encode: both halves of a text's vector.
        rank: the teacher's ranker.
        items: of the catalogue.
        signals: computes the choices of requests.
        kind_of: the kind of a query.
        seed: of the draws.
        max_history: events that the ranker reads.
    """

    cases: Cases
    queries: list[str]
    encode: Encode
    rank: Rank
    items: BlendItems
    signals: SignalBuilder
    kind_of: Callable[[str], Query]
    seed: int
    max_history: int

    @classmethod
    def load(
        cls, job: Job, dataset: Dataset, split: Split, texts: Texts, words: Words, sentences: Vectors
    ) -> _RequestSource:
        folder, plan, seed, size = job.folder("finetune"), job.settings.plan, job.settings.seed, texts.rows.items
        teacher = load_teacher(folder)
        vectors = load_item_vectors(folder)
        cold = ColdVectors.load(folder) or ColdVectors(vectors, np.full(size, FOLDS))  # a fold that is never held out
        counts = interaction_counts(split.train, size).astype(np.float64)
        items = BlendItems(vectors, cold.vectors, cold.folds, sentences[texts.rows.of(TextVariant.FULL)], counts)
        scoring = Scoring(Blend([]), fit_memory(split.train, size, split.order), words, size)
        untuned = PooledTexts(job.folder("data") / "checkpoint", plan.max_tokens)
        tuned = PooledTexts(teacher_checkpoint(job), plan.max_tokens)
        cases = index_training_users(split.validation, size)
        queries = QueryWriter(dataset.items, dataset.nouns, seed).write(cases.targets.tolist(), texts)
        return cls(
            cases,
            queries,
            teacher_encode(tuned, teacher, untuned, load_sentence_map(folder)),
            torch_rank(teacher),
            items,
            SignalBuilder(items, scoring, FOLDS, seed),
            scoring.query,
            seed,
            plan.max_history,
        )

    def choices(self, group: RequestGroup) -> list[Choices]:
        """The choices of a group's requests."""
        requests = list(requests_of(group, self.cases, self.queries, self.kind_of, self.seed))
        if not requests:
            return []
        texts = list(dict.fromkeys(request.query for request in requests if request.query))
        vectors = dict(zip(texts, self.encode(texts), strict=True)) if texts else {}
        users = self._users(requests, vectors)
        return self.signals.choices(requests, users, lambda request: self._known(request, vectors))

    def _users(self, requests: Sequence[BlendRequest], vectors: Mapping[str, Vectors]) -> Vectors:
        """The ranker's user vectors, [requests, d]."""
        users = np.empty((len(requests), self.items.vectors.shape[1]), np.float32)
        for start in range(0, len(requests), _BATCH):
            batch = requests[start : start + _BATCH]
            users[start : start + _BATCH] = self.rank([self._sequence(request, vectors) for request in batch])
        return users

    def _sequence(self, request: BlendRequest, vectors: Mapping[str, Vectors]) -> UserSequence:
        history = request.history[-self.max_history :]
        events, kinds = list(self.items.vectors[history]), [EventKind.ITEM] * len(history)
        if request.query:
            query = ranker_half(vectors[request.query], self.items.vectors.shape[1])
            events, kinds = [*events, query], [*kinds, EventKind.QUERY]
        return UserSequence(events, kinds)

    def _known(self, request: BlendRequest, vectors: Mapping[str, Vectors]) -> ScoringInput:
        history = request.history[-self.max_history :]
        return ScoringInput(
            events=len(history),
            items=history,
            sentences=self.items.sentences[history],
            query=request.query,
            query_sentence=sentence_half(vectors[request.query], self.items.vectors.shape[1])
            if request.query
            else None,
        )
