"""Stage `distil`: a ladder of students that put texts where the teacher puts them, from deep to none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from swiftrec.export.checkpoints.vocabulary import Vocabulary, choose_pieces, cut_tokenizer, read_wordpiece
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.data.token_store import TokenRows
from swiftrec.export.models.encoder import TextEncoder, keep_pieces, load_tokenizer, teacher_checkpoint
from swiftrec.export.models.one_pass import one_pass_teacher
from swiftrec.export.models.sentence_space import load_sentences, sample_rows
from swiftrec.export.models.static import StaticEncoder, fit, piece_batches, piece_vectors
from swiftrec.export.models.students import (
    LADDER,
    STATIC,
    Record,
    Rung,
    drop_layers,
    ladder,
    load_one,
    save_student,
    spread,
)
from swiftrec.export.models.teacher import load_teacher
from swiftrec.export.stages import baseline_gate
from swiftrec.export.stages.runner import Job
from swiftrec.export.train.distillation_data import Lesson, frequent_words
from swiftrec.export.train.resume import forget, resume_of
from swiftrec.export.train.width_pruning import narrow
from swiftrec.server.models.tokenizer import Tokenizer

_NOISY = 0.6  # share of the texts that come with noise
_SAMPLE = 512  # texts whose states say which directions a narrow student needs
_MAX_TEXTS, _MAX_ITEMS = 200_000, 5_000  # texts of items that are read, and items that the KL looks at: drawn
_PAIRS = 32_768  # rows of the static student's table for pairs of neighbours


@dataclass(frozen=True, slots=True)
class Course:
    """How long and how fast a student learns; `table_rate` is the learning rate of its table of word pieces."""

    epochs: int
    batch: int
    learning_rate: float
    table_rate: float


def run(job: Job, out: Path) -> None:
    """Write students.json (names in ladder order), a folder for each, and their tokenizer.

    A student that is trained is kept until all are: a stage that was stopped goes on behind it.

    Raises:
        ExportError: a student is not to be had, --vocabulary cannot cut this tokenizer, or the teacher already fails
            --require-baselines.
    """
    baseline_gate.check_teacher(job)
    torch.manual_seed(job.settings.seed)
    teacher, lesson = _cut(job, *_lesson(job), out)
    config = teacher.trunk.config
    rungs = ladder(job.settings.students, config.num_hidden_layers, config.hidden_size)
    for rung, student, record, course in _students(job, rungs, teacher, lesson):
        record.losses.extend(_taught(job, rung.name, student, lesson, course))
        save_student(student, record, out / rung.name)
    (out / LADDER).write_text(json.dumps([rung.name for rung in rungs]))
    forget(job, "distil")


def load_students(job: Job) -> dict[str, TextEncoder | StaticEncoder]:
    """Every student as PyTorch runs it, in ladder order: ids and mask, int64 [batch, tokens] -> both halves."""
    folder = job.folder("distil")
    return {name: load_one(folder / name) for name in json.loads((folder / LADDER).read_text())}


def _lesson(job: Job) -> tuple[TextEncoder, Lesson]:
    """The teacher as one module, and what it teaches."""
    texts, teacher = Texts.load(job.folder("data")), load_teacher(job.folder("finetune"))
    tokenizer = load_tokenizer(teacher_checkpoint(job), job.settings.plan.max_tokens)
    pooled = np.load(job.folder("finetune") / "pooled.npy", mmap_mode="r", allow_pickle=False)
    sentences = load_sentences(job.folder("finetune"), len(pooled))
    rng, size = np.random.default_rng(job.settings.seed), texts.rows.items
    known, items = _drawn(texts.rows.first_phrase, _MAX_TEXTS, rng), _drawn(size, _MAX_ITEMS, rng)
    chosen = np.concatenate([known, np.arange(texts.rows.first_phrase, len(pooled))])
    with torch.no_grad():
        for_ranker = teacher.text_vectors(torch.from_numpy(pooled[chosen]))
        wanted = torch.cat([for_ranker, torch.from_numpy(sentences[chosen])], dim=1)
        targets = teacher.text_vectors(torch.from_numpy(pooled[items])) + teacher.residual[items]
    every = texts.all
    read = [every[n] for n in chosen.tolist()]
    return one_pass_teacher(job), Lesson(
        texts=read,
        rows=TokenRows(tokenizer, read),
        tokenizer=tokenizer,
        wanted=wanted,
        items=targets,
        seed=job.settings.seed,
        fillers=frequent_words(teacher_checkpoint(job) / "tokenizer.json", read),
    )


def _drawn(size: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """All of `size` positions, or `most` of them, ascending."""
    return np.arange(size) if size <= most else np.sort(rng.permutation(size)[:most])


def _cut(job: Job, teacher: TextEncoder, lesson: Lesson, out: Path) -> tuple[TextEncoder, Lesson]:
    """Teacher and lesson with the word pieces that students shall know; write tokenizer.json and vocabulary.json."""
    path, plan, size = out / "tokenizer.json", job.settings.plan, int(teacher.trunk.config.vocab_size)
    lesson.tokenizer.save(path)
    most = job.settings.most_pieces
    if most is None:
        Vocabulary(size, size).save(out)
        return teacher, lesson
    facts = read_wordpiece(path)
    every = Texts.load(job.folder("data")).all  # the lesson may have drawn some of them
    texts = (row for text in every for row in lesson.tokenizer.encode([text]))
    spelled = (
        row for n in range(max(plan.distil_epochs, plan.static_epochs)) for row in lesson.spelled(n, _NOISY).values()
    )
    kept = choose_pieces(facts, chain(texts, spelled), most)
    path.write_text(json.dumps(cut_tokenizer(facts, kept), ensure_ascii=False), encoding="utf-8")
    Vocabulary(len(kept), size).save(out)
    keep_pieces(teacher.trunk, kept)
    tokenizer = Tokenizer.load(path, plan.max_tokens)
    return teacher, replace(lesson, rows=TokenRows(tokenizer, lesson.texts), tokenizer=tokenizer)


def _students(
    job: Job, rungs: list[Rung], teacher: TextEncoder, lesson: Lesson
) -> Iterator[tuple[Rung, TextEncoder | StaticEncoder, Record, Course]]:
    """Each student as it starts: a shallower one from the deeper one before it, which is trained by then."""
    plan, sizes = job.settings.plan, (teacher.dimensions, teacher.sentence_dimensions)
    deeper, kept = teacher, list(range(teacher.trunk.config.num_hidden_layers))
    for rung in rungs:
        if rung.layers == 0:
            record = Record(rung.name, STATIC, [], sum(sizes), *sizes, _PAIRS)
            yield rung, _static(job, teacher, lesson), record, Course(plan.static_epochs, 256, 5e-3, 5e-3)
            continue
        keep = spread(len(kept), rung.layers)
        student, layers = drop_layers(deeper, keep), [kept[n] for n in keep]
        if rung.width:
            student = narrow(student, rung.width, [*lesson.rows[:: -(-len(lesson.rows) // _SAMPLE)]])
        else:
            deeper, kept = student, layers
        record = Record(rung.name, "bert", layers, student.trunk.config.hidden_size, *sizes)
        yield rung, student, record, Course(plan.distil_epochs, 64, 5e-4, 2e-3)


def _static(job: Job, teacher: TextEncoder, lesson: Lesson) -> StaticEncoder:
    with job.progress("word pieces", piece_batches(teacher)) as step:
        pieces = piece_vectors(teacher, lesson.tokenizer.encode([""])[0], step)
    student = StaticEncoder(len(pieces), _PAIRS, lesson.dimensions, lesson.sentence_dimensions)
    some = sample_rows(len(lesson.rows), lesson.seed)
    with torch.no_grad():
        student.table.weight[: len(pieces)] = fit(pieces, [lesson.rows[n] for n in some.tolist()], lesson.wanted[some])
    return student.eval()


def _taught(job: Job, name: str, student: TextEncoder | StaticEncoder, lesson: Lesson, course: Course) -> list[float]:
    """Train the student, or make it what it was when a run was stopped behind it; the mean loss of each epoch."""
    resume = resume_of(job, "distil", name)
    if (saved := resume.load()) is not None:
        tensors, facts = saved
        student.load_state_dict(tensors)
        return [*facts["losses"]]
    losses = list(_train(job, name, student, lesson, course))
    resume.save(student.state_dict(), {"losses": losses})
    return losses


def _train(
    job: Job, name: str, student: TextEncoder | StaticEncoder, lesson: Lesson, course: Course
) -> Iterator[float]:
    """Train; yields the mean loss of each epoch."""
    total = course.epochs * lesson.steps(course.batch)
    optimisers = _optimisers(student, course)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(o, o.defaults["lr"], total + 1, pct_start=0.1, cycle_momentum=False)
        for o in optimisers
    ]
    with job.progress(f"distil {name}", total) as step:
        for epoch in range(course.epochs):
            losses = []
            for ids, mask, wanted in lesson.epoch(epoch, course.batch, _NOISY):
                loss = lesson.loss(student(ids, mask), wanted)
                student.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                for optimiser, schedule in zip(optimisers, schedules, strict=True):
                    optimiser.step()
                    schedule.step()
                losses.append(loss.item())
                step()
            yield sum(losses) / len(losses)


def _optimisers(student: TextEncoder | StaticEncoder, course: Course) -> list[torch.optim.Optimizer]:
    """One for the table of word pieces, of which a batch touches few rows, and one for what is behind it.

    Rows that no training text touches keep what BERT gave them.
    """
    table = student.table if isinstance(student, StaticEncoder) else student.trunk.embeddings.word_embeddings
    table.sparse = True
    rest = [p for p in student.parameters() if p is not table.weight]
    sparse = torch.optim.SparseAdam([table.weight], lr=course.table_rate)
    return [sparse, torch.optim.AdamW(rest, lr=course.learning_rate, fused=True)] if rest else [sparse]
