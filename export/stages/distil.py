"""Stage `distil`: trains the students on the teacher's vectors, from the deepest to the static one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from swiftrec.export.checkpoints.vocabulary import Vocabulary, choose_pieces, cut_tokenizer, read_wordpiece
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.data.token_store import TokenRows
from swiftrec.export.job import Job
from swiftrec.export.models.encoder import TextEncoder, keep_pieces, load_tokenizer, teacher_checkpoint
from swiftrec.export.models.one_pass import one_pass_teacher
from swiftrec.export.models.sentence_space import load_sentences, sample_rows
from swiftrec.export.models.static import StaticEncoder, fit_pieces, piece_batches, piece_vectors
from swiftrec.export.models.students import (
    STATIC,
    STUDENTS,
    StudentRecord,
    StudentShape,
    drop_layers,
    load_student,
    parse_students,
    save_student,
    spread,
)
from swiftrec.export.models.teacher import load_teacher
from swiftrec.export.models.teacher_files import load_item_vectors, load_pooled
from swiftrec.export.stages.baseline_gate import check_teacher
from swiftrec.export.stages.resume import forget, resume_of
from swiftrec.export.train.distillation_data import DistillationData, frequent_words
from swiftrec.export.train.fit import fit
from swiftrec.export.train.student_trainer import Course, StudentTrainer, corrupted_rows
from swiftrec.export.train.width_pruning import prune_width
from swiftrec.server.models.tokenizer import Tokenizer

_PRUNING_TEXTS = 512  # by whose hidden states the width is pruned
_MAX_TEXTS, _MAX_ITEMS = 200_000, 5_000  # item texts that are read, and items in the KL divergence, drawn at random
_PAIRS = 32_768  # rows of the static student's table for pairs of neighbouring word pieces


def run(job: Job, output: Path) -> None:
    """Write students.json (names, from deep to static), a folder for each, and their tokenizer.

    An interrupted stage resumes after the last finished student.

    Raises:
        ExportError: the teacher has no such student, or --vocabulary cannot cut this tokenizer.
        GateError: the teacher already fails --require-baselines.
    """
    check_teacher(job)
    torch.manual_seed(job.settings.seed)
    teacher, data = _cut_vocabulary(job, *_distillation_data(job), output)
    config = teacher.backbone.config
    shapes = parse_students(job.settings.student_names, config.num_hidden_layers, config.hidden_size)
    for shape, student, record, course in _students(job, shapes, teacher, data):
        trainer, bar = StudentTrainer(student, data, course), partial(job.progress, f"distil {shape.name}")
        record.losses.extend(fit(trainer, trainer.schedule, bar=bar, resume=resume_of(job, "distil", shape.name)))
        save_student(student, record, output / shape.name)
    (output / STUDENTS).write_text(json.dumps([shape.name for shape in shapes]))
    forget(job, "distil")


def load_students(job: Job) -> dict[str, TextEncoder | StaticEncoder]:
    """Every student in PyTorch, from deep to static: ids and mask, int64 [batch, tokens] -> both halves."""
    folder = job.folder("distil")
    return {name: load_student(folder / name) for name in json.loads((folder / STUDENTS).read_text())}


def _distillation_data(job: Job) -> tuple[TextEncoder, DistillationData]:
    """The teacher as one module, and the training data of its students."""
    folder, texts = job.folder("finetune"), Texts.load(job.folder("data"))
    teacher, pooled = load_teacher(folder), load_pooled(folder)
    tokenizer = load_tokenizer(teacher_checkpoint(job), job.settings.plan.max_tokens)
    sentences = load_sentences(folder, len(pooled))
    rng, size = np.random.default_rng(job.settings.seed), texts.rows.items
    item_texts, items = _drawn(texts.rows.first_phrase, _MAX_TEXTS, rng), _drawn(size, _MAX_ITEMS, rng)
    chosen = np.concatenate([item_texts, np.arange(texts.rows.first_phrase, len(pooled))])
    with torch.no_grad():
        ranker_half = teacher.text_vectors(pooled[chosen])
    all_texts = texts.all
    drawn = [all_texts[n] for n in chosen.tolist()]
    return one_pass_teacher(job), DistillationData(
        texts=drawn,
        rows=TokenRows(tokenizer, drawn),
        tokenizer=tokenizer,
        targets=torch.cat([ranker_half, torch.from_numpy(sentences[chosen])], dim=1),
        items=torch.from_numpy(load_item_vectors(folder)[items]),
        seed=job.settings.seed,
        fillers=frequent_words(teacher_checkpoint(job) / "tokenizer.json", drawn),
    )


def _drawn(size: int, limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """All of `size` positions, or `limit` of them, ascending."""
    return np.arange(size) if size <= limit else np.sort(rng.permutation(size)[:limit])


def _cut_vocabulary(
    job: Job, teacher: TextEncoder, data: DistillationData, output: Path
) -> tuple[TextEncoder, DistillationData]:
    """Teacher and data with the students' word pieces alone; writes tokenizer.json and vocabulary.json."""
    path, plan, size = output / "tokenizer.json", job.settings.plan, int(teacher.backbone.config.vocab_size)
    data.tokenizer.save(path)
    limit = job.settings.max_pieces
    if limit is None:
        Vocabulary(size, size).save(output)
        return teacher, data
    tokenizer_json = read_wordpiece(path)
    all_texts = Texts.load(job.folder("data")).all  # `data` may have drawn some of them
    clean = (row for text in all_texts for row in data.tokenizer.encode([text]))
    corrupted = corrupted_rows(data, max(plan.distil_epochs, plan.static_epochs))
    kept = choose_pieces(tokenizer_json, chain(clean, corrupted), limit)
    path.write_text(json.dumps(cut_tokenizer(tokenizer_json, kept), ensure_ascii=False), encoding="utf-8")
    Vocabulary(len(kept), size).save(output)
    keep_pieces(teacher.backbone, kept)
    tokenizer = Tokenizer.load(path, plan.max_tokens)
    return teacher, replace(data, rows=TokenRows(tokenizer, data.texts), tokenizer=tokenizer)


def _students(
    job: Job, shapes: list[StudentShape], teacher: TextEncoder, data: DistillationData
) -> Iterator[tuple[StudentShape, TextEncoder | StaticEncoder, StudentRecord, Course]]:
    """Each student before its training: it starts with weights of the deeper one before it, which has been trained."""
    plan, sizes = job.settings.plan, (teacher.dimensions, teacher.sentence_dimensions)
    deeper, kept = teacher, list(range(teacher.backbone.config.num_hidden_layers))
    for shape in shapes:
        if shape.layers == 0:
            record = StudentRecord(shape.name, STATIC, [], sum(sizes), *sizes, _PAIRS)
            yield shape, _static(job, teacher, data), record, Course(plan.static_epochs, 256, 5e-3, 5e-3)
            continue
        keep = spread(len(kept), shape.layers)
        student, layers = drop_layers(deeper, keep), [kept[n] for n in keep]
        if shape.width:
            rows = data.rows[:: -(-len(data.rows) // _PRUNING_TEXTS)]
            student = prune_width(student, shape.width, [*rows])
        else:
            deeper, kept = student, layers
        record = StudentRecord(shape.name, "bert", layers, student.backbone.config.hidden_size, *sizes)
        yield shape, student, record, Course(plan.distil_epochs, 64, 5e-4, 2e-3)


def _static(job: Job, teacher: TextEncoder, data: DistillationData) -> StaticEncoder:
    """The static student with its first vectors; see `export.models.static`."""
    with job.progress("word pieces", piece_batches(teacher)) as step:
        pieces = piece_vectors(teacher, data.tokenizer.encode([""])[0], step)
    student = StaticEncoder(len(pieces), _PAIRS, data.dimensions, data.sentence_dimensions)
    sample = sample_rows(len(data.rows), data.seed)
    rows = [data.rows[n] for n in sample.tolist()]
    with torch.no_grad():
        student.table.weight[: len(pieces)] = fit_pieces(pieces, rows, data.targets[sample])
    return student.eval()
