"""Stage `finetune`: trains the teacher, first its head, then as many layers of BERT as are tuned."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig

from swiftrec.export.checkpoints.vocabulary import read_wordpiece
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.data.token_store import TokenRows, chunks
from swiftrec.export.job import Job
from swiftrec.export.models.backbone import Backbone, first_tuned_layer
from swiftrec.export.models.encoder import load_tokenizer, save_checkpoint
from swiftrec.export.models.sentence_space import save_sentences
from swiftrec.export.models.students import parse_students
from swiftrec.export.models.teacher import Teacher, save_teacher
from swiftrec.export.models.teacher_files import save_item_vectors, save_pooled, save_untuned
from swiftrec.export.stages.resume import forget, resume_of
from swiftrec.export.train.cold_residuals import set_cold_residuals
from swiftrec.export.train.curve import Curve
from swiftrec.export.train.encoder_tuning import EncoderTuner
from swiftrec.export.train.ensemble import TeacherEnsemble
from swiftrec.export.train.fit import fit, on_device
from swiftrec.export.train.pretrained import is_pretrained, split_of, take_pretrained
from swiftrec.export.train.trainer import TeacherTrainer
from swiftrec.export.train.training_data import TrainingData, augmented, negatives_of
from swiftrec.export.train.validation import index_training_users


def run(job: Job, output: Path) -> None:
    """Write checkpoint/ (the tuned BERT), the teacher, its arrays, the sentence vectors and the learning curves.

    The arrays are in `export.models.teacher_files`, the sentence vectors in `export.models.sentence_space`, those of
    items without interactions in `export.train.cold_start`. The curves are in curve*.json and in TensorBoard scalars.

    Raises:
        ExportError: a later stage could not run with these settings: raised before minutes of training.
    """
    settings, folder = job.settings, job.folder("data")
    if settings.max_pieces is not None:
        read_wordpiece(folder / "checkpoint" / "tokenizer.json")
    if is_pretrained(job):
        take_pretrained(job, output)
        return
    config = BertConfig.from_pretrained(folder / "checkpoint")
    first_tuned_layer(config.num_hidden_layers, settings.layers_to_tune(config.num_hidden_layers))
    parse_students(settings.student_names, config.num_hidden_layers, config.hidden_size)
    texts = Texts.load(folder)
    copies = augmented(texts, settings.augment, settings.seed, settings.synonyms)
    data = TrainingData(split_of(job, Dataset.load(folder)), texts, copies, negatives_of(settings, texts.rows.items))
    with on_device(settings.train_device):
        _train(job, data, output)
    forget(job, "finetune")


def _train(job: Job, data: TrainingData, output: Path) -> None:
    """Train the head, with an ensemble if there is one, tune BERT, and write everything."""
    settings = job.settings
    backbone = _backbone(job, data)
    with job.progress("encode texts", backbone.batches) as step:
        pooled = backbone.encode_all(step)
    save_sentences(data.originals(pooled), output, settings.seed)
    numbers = range(1, settings.teachers + 1) if settings.teachers > 1 else ()
    members = [
        (member, member.all_item_vectors(data.item_rows(pooled)))
        for member in (_train_head(job, data, pooled, output, number) for number in numbers)
    ]
    teacher = _train_head(job, data, pooled, output, 0, TeacherEnsemble(members) if members else None)
    untuned = data.item_rows(pooled)
    if backbone.is_tuned:
        pooled = _tune(job, data, backbone, teacher, pooled, output)
        save_untuned(untuned, output)
    cases = index_training_users(data.split.validation, data.items)
    cold_vectors = set_cold_residuals(teacher, data, untuned, pooled, cases, settings.seed)
    if cold_vectors is not None:
        cold_vectors.save(output)
    save_checkpoint(backbone.merged(), job.folder("data") / "checkpoint", output / "checkpoint")
    save_pooled(data.originals(pooled), output)
    save_item_vectors(teacher.all_item_vectors(data.item_rows(pooled)), output)
    save_teacher(teacher, output)


def _backbone(job: Job, data: TrainingData) -> Backbone:
    """The checkpoint's BERT over all texts."""
    settings, checkpoint, texts = job.settings, job.folder("data") / "checkpoint", data.augmented.all
    with job.progress("read texts", chunks(texts)) as step:
        rows = TokenRows(load_tokenizer(checkpoint, settings.plan.max_tokens), texts, step)
    depth: int = BertConfig.from_pretrained(checkpoint).num_hidden_layers
    torch.manual_seed(settings.seed)
    return Backbone(checkpoint, rows, settings.layers_to_tune(depth), settings.lora)


def _train_head(
    job: Job, data: TrainingData, pooled: Tensor, output: Path, number: int, ensemble: TeacherEnsemble | None = None
) -> Teacher:
    """Train the head of a teacher over `pooled` [texts, hidden]; number 0 is kept, the others are an ensemble."""
    settings, plan = job.settings, job.settings.plan
    seed = settings.seed + number
    torch.manual_seed(seed)
    length = plan.max_history + 1  # the query comes behind a full history
    teacher = Teacher(
        pooled.shape[1], plan.dimensions, data.items, length, ranker=settings.ranker, dropout=settings.dropout
    )
    trainer = TeacherTrainer(settings, data, pooled, teacher, seed, ensemble=ensemble)
    with Curve(output, f"curve-{number}" if number else "curve") as curve:
        fit(
            trainer,
            trainer.schedule(settings.epochs or plan.finetune_epochs, settings.patience),
            optimiser=settings.optimiser,
            bar=partial(job.progress, f"teacher {number}" if number else "fine-tune"),
            resume=resume_of(job, "finetune", str(number)),
            curve=curve,
        )
    trainer.finish()
    return teacher


def _tune(job: Job, data: TrainingData, backbone: Backbone, teacher: Teacher, pooled: Tensor, output: Path) -> Tensor:
    """Tune BERT's layers towards the trained teacher's items; the texts' new vectors, [texts, hidden]."""
    tuner = EncoderTuner(job.settings, data, backbone, teacher, pooled, job.settings.seed, job.progress)
    with Curve(output, "curve-encoder") as curve:
        fit(
            tuner,
            tuner.schedule,
            optimiser=job.settings.optimiser,
            bar=partial(job.progress, "tune BERT"),
            resume=resume_of(job, "finetune", "encoder"),
            curve=curve,
        )
    tuner.finish()
    return tuner.pooled
