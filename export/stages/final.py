"""Stage `final`: trains the served model on all events, also the validation and test events of the measured one.

The measured model must not see all events, the served one should. So after all measurements, ranker and item vectors
are trained again with the same settings and the number of epochs that validation chose, and the memory is fitted again.
Projection, BERT, students and the weights of a score's parts stay the same. A pretrained recommender is served as it
was measured, with the memory of all events.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.blend.cold_memory import fit_full_memory
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.popularity import popularity
from swiftrec.export.data.repeats import counted
from swiftrec.export.data.split import Cases, Split, everything, trainable
from swiftrec.export.data.text_variants import TextRows, Texts, TextVariant
from swiftrec.export.evaluate.backends import served_encode, served_rank
from swiftrec.export.evaluate.final_comparison import expected_answers, likeness, require_learned
from swiftrec.export.evaluate.recommender import Encode, EvaluatedRecommender
from swiftrec.export.evaluate.reference import Reference
from swiftrec.export.evaluate.retrieval import load_retrieval
from swiftrec.export.evaluate.tasks import sample_cases
from swiftrec.export.gates import ranker_parity
from swiftrec.export.job import Job
from swiftrec.export.models.sentence_space import load_sentences
from swiftrec.export.models.teacher_files import ITEM_VECTORS, load_item_vectors
from swiftrec.export.schema.final import EXPECTED, FINAL, POPULARITY, FinalRecord, taken_as_it_is, trained_again
from swiftrec.export.schema.quality import QUALITY_FILE, Quality
from swiftrec.export.schema.variant import load_graphs
from swiftrec.export.stages.onnx import trace_ranker
from swiftrec.export.train.pretrained import is_pretrained, split_of
from swiftrec.export.train.refit import train_on_all
from swiftrec.server.arrays import Vectors
from swiftrec.server.catalogue.catalogue import VECTORS
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.models.bundle import RANKER, SENTENCES
from swiftrec.server.models.tokenizer import Tokenizer

_RANKER_NAME = "the ranker trained on all events"


def run(job: Job, output: Path) -> None:
    """Write the served model except encoders, tokenizer and words, and the results that the bundle must give.

    vectors.npy: item vectors, float32 [items, d]. sentences.npy: sentence vectors of the items' texts, float32
    [items, d2]; missing for a pretrained recommender. ranker.onnx, the memory's tables, popularity.json (the
    number of events of each item as the bundle has it), expected.json (`expected_answers`) and final.json
    (`FinalRecord`).

    Raises:
        GateError: the ranker's graph differs from the PyTorch module, or the new training failed.
    """
    source = _EarlierResults.load(job)
    items = len(source.dataset.items)
    sentences = load_sentences(job.folder("finetune"), items)[TextRows(items).of(TextVariant.FULL)]
    if sentences.shape[1]:
        np.save(output / SENTENCES, sentences, allow_pickle=False)
    histories = source.dataset.histories
    trained = trainable(histories) if source.is_trained else histories
    counts = popularity(histories, trained, items)
    order = source.dataset.order
    (fit_full_memory(histories, counts, sentences, order) if histories else Memory.empty(items)).save(output)
    vectors, record = _train(job, source, output) if source.is_trained else _copy_measured(job, source, output)
    (output / POPULARITY).write_text(json.dumps(counts.tolist()))
    np.save(output / VECTORS, vectors, allow_pickle=False)
    served = _recommender(job, source, _Model(output / VECTORS, output / RANKER, output, counts))
    if histories:
        record = _compare(job, source, served, record)
        cases, texts = source.cases, Texts.load(job.folder("data")).variants[TextVariant.TITLE]
    else:
        texts = Reference.load(job.folder("data")).texts
        cases = Cases(np.arange(len(texts)), [np.array([n]) for n in range(len(texts))], np.zeros(len(texts), np.int64))
    expected = expected_answers(served, cases, texts, source.dataset.items)
    (output / EXPECTED).write_text(json.dumps(expected))
    (output / FINAL).write_text(record.model_dump_json(indent=1))


@dataclass(frozen=True, slots=True)
class _Model:
    """Files of a model, and the popularity of the items in it, int64 [items]."""

    vectors: Path
    ranker: Path
    memory: Path
    popularity: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _EarlierResults:
    """The results of earlier stages.

    Args:
        dataset: with the interactions that count.
        split: of the measured model; None without interactions.
        cases: those whose target it was trained on, as in `verify`.
        quality: the record of `verify`.
        encode: the default variant on the CPU.
        is_trained: whether the head was trained in this export.
    """

    dataset: Dataset
    split: Split | None
    cases: Cases
    quality: Quality
    encode: Encode
    is_trained: bool

    @classmethod
    def load(cls, job: Job) -> _EarlierResults:
        dataset = counted(Dataset.load(job.folder("data")), job.settings.repeats)
        quality = Quality.model_validate_json((job.folder("verify") / QUALITY_FILE).read_text())
        paths = {variant.name: path for variant, path in load_graphs(job.folder("quantise"))}
        tokenizer = Tokenizer.load(job.folder("onnx") / "tokenizer.json", job.settings.plan.max_tokens)
        encode = served_encode(paths[quality.default["cpu"].name], tokenizer, "cpu")
        if not dataset.histories:
            return cls(dataset, None, Cases(np.arange(0), [], np.arange(0)), quality, encode, is_trained=False)
        split = split_of(job, dataset)
        cases = sample_cases(split.warm, len(dataset.items), job.settings.seed)
        return cls(dataset, split, cases, quality, encode, is_trained=not is_pretrained(job))

    @property
    def events(self) -> int:
        """Number of all interactions."""
        return sum(map(len, self.dataset.histories))

    @property
    def measured_events(self) -> int:
        """Number of the interactions that the measured model was trained on."""
        return sum(map(len, self.split.train)) if self.split else 0


def _train(job: Job, source: _EarlierResults, output: Path) -> tuple[Vectors, FinalRecord]:
    """Train on all events and write the ranker's graph; return the item vectors and the record."""
    split = everything(source.dataset, repeats=job.settings.repeats)
    trained = train_on_all(job, split)
    teacher, items = trained.teacher, len(source.dataset.items)
    width = teacher.projection.out_features
    parity = trace_ranker(_RANKER_NAME, teacher.ranker, output / RANKER, width, teacher.max_length)
    cold, epochs = source.quality.cold_items, len(trained.losses)
    record = FinalRecord(
        events=source.events,
        measured_events=source.measured_events,
        epochs=epochs,
        loss=trained.losses[-1],
        parity=ranker_parity(parity),
        figures=trained_again(job.settings.protocol, split.order, cold, items, source.events, epochs),
    )
    return trained.items.numpy(), record


def _copy_measured(job: Job, source: _EarlierResults, output: Path) -> tuple[Vectors, FinalRecord]:
    """Copy the ranker of the measured model; return its item vectors and the record."""
    shutil.copyfile(job.folder("onnx") / RANKER, output / RANKER)
    figures = taken_as_it_is(source.events, source.measured_events) if source.split else ""
    record = FinalRecord(events=source.events, measured_events=source.measured_events, figures=figures)
    return load_item_vectors(job.folder("finetune")), record


def _recommender(job: Job, source: _EarlierResults, model: _Model) -> EvaluatedRecommender:
    """A model as the server runs it, with the default variant."""
    vectors: Vectors = np.load(model.vectors, mmap_mode="r", allow_pickle=False)
    items, blend = len(vectors), job.folder("blend")
    sentences = load_sentences(job.folder("finetune"), items)[TextRows(items).of(TextVariant.FULL)]
    titles = Texts.load(job.folder("data")).variants[TextVariant.TITLE]
    retrieval = load_retrieval(blend, Memory.load(model.memory, items), titles, sentences, model.popularity)
    rank = served_rank(model.ranker, vectors.shape[1])
    return EvaluatedRecommender(source.encode, rank, vectors, job.settings.plan.max_history, retrieval=retrieval)


def _compare(job: Job, source: _EarlierResults, served: EvaluatedRecommender, record: FinalRecord) -> FinalRecord:
    """The record with a comparison of the served and the measured model."""
    if source.split is None:
        return record
    files = job.folder("finetune") / ITEM_VECTORS, job.folder("onnx") / RANKER, job.folder("blend")
    known = popularity(source.split.known, source.split.train, len(source.dataset.items))
    measured = _recommender(job, source, _Model(*files, known))
    with job.progress("compare with the measured model", 2) as step:
        held_out = None
        if source.is_trained:
            held_out = require_learned(measured, served, source.cases, known > 0, job.settings.seed)
        step()
        overlap = likeness(measured, served, source.cases)
        step()
    compared = record.model_copy(update={"held_out": held_out, "overlap": overlap})
    job.console.print(f"  {compared.likeness}", markup=False, highlight=False, soft_wrap=True)
    return compared
