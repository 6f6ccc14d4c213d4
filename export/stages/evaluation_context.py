"""Loads what every recommender is evaluated on: data, split, tasks, the teacher in PyTorch, the untouched encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.popularity import popularity
from swiftrec.export.data.repeats import counted
from swiftrec.export.data.text_variants import Texts, TextVariant
from swiftrec.export.evaluate.backends import PooledTexts, plain_encode, teacher_encode, torch_rank
from swiftrec.export.evaluate.context import EvaluationContext
from swiftrec.export.evaluate.recommender import EvaluatedRecommender
from swiftrec.export.evaluate.retrieval import load_retrieval
from swiftrec.export.evaluate.tasks import make_tasks
from swiftrec.export.job import Job
from swiftrec.export.models.encoder import teacher_checkpoint
from swiftrec.export.models.sentence_space import load_sentence_map, load_sentences
from swiftrec.export.models.teacher import load_teacher
from swiftrec.export.models.teacher_files import load_item_vectors, load_pooled, load_untuned
from swiftrec.export.train.pretrained import split_of
from swiftrec.server.arrays import Positions, Vectors
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.models.networks import UserSequence

_MAX_FROZEN_BYTES = 1 << 30  # for the frozen encoder's vectors of items, which are held twice
_WHOLE_HISTORY = 1 << 30


def load_context(job: Job) -> EvaluationContext:
    """Read the earlier stages."""
    dataset = counted(Dataset.load(job.folder("data")), job.settings.repeats)
    texts, parts = Texts.load(job.folder("data")), split_of(job, dataset)
    untouched = _untouched_texts(job)
    counts = popularity(parts.known, parts.train, len(dataset.items))
    teacher = _teacher(job, texts, untouched, counts)
    fault = frozen_fault(job, len(dataset.items))
    frozen = None if fault else _frozen(job, untouched)
    return EvaluationContext(
        seed=job.settings.seed,
        dataset=dataset,
        split=parts,
        tasks=make_tasks(dataset, texts, parts, job.settings.seed),
        counts=counts,
        texts=frozen.items if frozen else _unit(teacher.items),
        teacher=teacher,
        frozen=frozen,
        frozen_fault=fault,
    )


def load_frozen(job: Job, items: int) -> EvaluatedRecommender | None:
    """The checkpoint before any training, as a recommender; None if `frozen_fault` says why."""
    return None if frozen_fault(job, items) else _frozen(job, _untouched_texts(job))


def frozen_fault(job: Job, items: int) -> str:
    """Why nothing is compared with the frozen encoder; empty if it is."""
    width = json.loads((job.folder("data") / "checkpoint" / "config.json").read_text())["hidden_size"]
    needed = 2 * 4 * items * int(width)
    if needed <= _MAX_FROZEN_BYTES:
        return ""
    return (
        f"the untouched encoder's vectors of {items:,} items need {needed / 1e9:.1f} GB, and at most "
        f"{_MAX_FROZEN_BYTES / 1e9:.1f} GB are used for a comparison with it"
    )


def teacher_size(checkpoint: Path) -> tuple[int, int, float]:
    """Layers, width and megabytes of the BERT at `checkpoint`."""
    config = json.loads((checkpoint / "config.json").read_text())
    size = (checkpoint / "model.safetensors").stat().st_size / 1e6
    return config["num_hidden_layers"], config["hidden_size"], round(size, 1)


def _untouched_texts(job: Job) -> PooledTexts:
    return PooledTexts(job.folder("data") / "checkpoint", job.settings.plan.max_tokens)


def _teacher(job: Job, texts: Texts, untouched: PooledTexts, counts: NDArray[np.int64]) -> EvaluatedRecommender:
    """The teacher in PyTorch; `untouched` is the checkpoint before fine-tuning, `counts` are items' known events."""
    folder, size, plan = job.folder("finetune"), texts.rows.items, job.settings.plan
    blend, full = job.folder("blend"), texts.rows.of(TextVariant.FULL)
    teacher, sentence_map = load_teacher(folder), load_sentence_map(folder)
    pooled = load_pooled(folder)
    sentences = load_sentences(folder, len(pooled))

    def encode_titles(items: Positions) -> Vectors:
        rows = texts.rows.row(TextVariant.TITLE, items)
        with torch.inference_mode():
            vectors = teacher.text_vectors(pooled[rows]).numpy()
        return np.concatenate([vectors, sentences[rows]], axis=1)

    tuned = PooledTexts(teacher_checkpoint(job), plan.max_tokens)
    return EvaluatedRecommender(
        teacher_encode(tuned, teacher, untouched, sentence_map),
        torch_rank(teacher),
        load_item_vectors(folder),
        plan.max_history,
        encode_titles,
        load_retrieval(blend, Memory.load(blend, size), texts.variants[TextVariant.TITLE], sentences[full], counts),
    )


def _frozen(job: Job, untouched: PooledTexts) -> EvaluatedRecommender:
    """The checkpoint before training: cosine of an item's text and the mean of the events' texts, or the query's.

    Stage `finetune` has encoded the items' texts with it, so that only requests are encoded here.
    """
    folder = job.folder("finetune")
    items = load_untuned(folder, len(load_item_vectors(folder))).numpy()
    return EvaluatedRecommender(plain_encode(untouched), _mean_of_events, _unit(items), _WHOLE_HISTORY)


def _mean_of_events(users: list[UserSequence]) -> Vectors:
    return _unit(np.array([np.mean(user.vectors, 0) for user in users], dtype=np.float32))


def _unit(vectors: Vectors) -> Vectors:
    """Scaled to length 1."""
    scaled: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-9))
    return scaled
