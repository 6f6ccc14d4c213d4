"""Stage `finetune`: the teacher, and as much of BERT as is told to move with it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig

from swiftrec.export.checkpoints.vocabulary import read_wordpiece
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.split import Cases, Histories
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.data.token_store import TokenRows, chunks
from swiftrec.export.models.backbone import MovingTrunk, first_moving
from swiftrec.export.models.encoder import load_tokenizer, save_checkpoint
from swiftrec.export.models.sentence_space import save_sentences
from swiftrec.export.models.students import ladder
from swiftrec.export.models.teacher import Teacher, save_teacher
from swiftrec.export.stages.runner import Job
from swiftrec.export.train.cold_start import Choice, Crowd, Placed, Vectors, can_place, place_again, place_newcomers
from swiftrec.export.train.cold_start import Texts as TextVectors
from swiftrec.export.train.curve import Curve
from swiftrec.export.train.encoder_tuning import Absorber
from swiftrec.export.train.ensemble import Guides
from swiftrec.export.train.epochs import Epochs
from swiftrec.export.train.memory_bank import MovingBank
from swiftrec.export.train.pretrained import adopt, is_adopted, parts_of
from swiftrec.export.train.resume import forget, resume_of
from swiftrec.export.train.trainer import Trainer
from swiftrec.export.train.training_data import World, negatives_of, with_noise
from swiftrec.export.train.validation import some_users, users_of
from swiftrec.server.models.networks import Kind

_PLAIN = "plain.npy"


def run(job: Job, out: Path) -> None:
    """Write checkpoint/ (the tuned BERT), pooled.npy, the teacher, the sentence vectors, and the learning curve.

    pooled.npy is float32 [texts, hidden]: the tuned BERT's vectors, rows of `Texts.all`. sentences.npy has the same
    rows: see `save_sentences`. as-new.npy, folds.npy and newcomers.json say where each item would stand if nobody had
    taken it (`Placed`). plain.npy, float32 [items, hidden], has the vectors of the items' texts before BERT was tuned;
    it is missing where BERT was not. The curve is in curve.json and in TensorBoard scalars.

    Raises:
        ExportError: the stage after this one could not do what it is told: said before minutes of training.
    """
    settings, data = job.settings, job.folder("data")
    if settings.most_pieces is not None:
        read_wordpiece(data / "checkpoint" / "tokenizer.json")
    if is_adopted(job):
        adopt(job, out)
        return
    config = BertConfig.from_pretrained(data / "checkpoint")
    first_moving(config.num_hidden_layers, settings.moving_layers(config.num_hidden_layers))
    ladder(settings.students, config.num_hidden_layers, config.hidden_size)
    texts = Texts.load(data)
    ways = with_noise(texts, settings.augment, settings.seed, settings.synonyms)
    world = World(parts_of(job, Dataset.load(data)), texts, ways, negatives_of(settings, texts.rows.items))
    several = settings.teachers if settings.teachers > 1 else 0
    # As a mode it costs time in every call: only where it is needed.
    with torch.device(settings.train_device) if settings.train_device != "cpu" else contextlib.nullcontext():
        taught = (_teach(job, world, out, n + 1)[0] for n in range(several))
        guides = [guide_of(one, world, one.pooled) for one in taught]
        trainer, trunk = _teach(job, world, out, 0, Guides(guides) if guides else None)
        pooled = trainer.pooled
        if trunk.moves and settings.moves == "after":
            pooled = _absorb(job, world, out, trainer, trunk)
        cases = some_users(world.split.validation, world.items)
        placed = place_untaken(trainer.teacher, world, trainer.plain, pooled, cases, settings.seed)
        if placed is not None:
            placed.save(out)
        save_checkpoint(trunk.merged(), data / "checkpoint", out / "checkpoint")
        np.save(out / "pooled.npy", world.originals(pooled).cpu().numpy(), allow_pickle=False)
        if trunk.moves:
            np.save(out / _PLAIN, trainer.plain.cpu().numpy(), allow_pickle=False)
        save_teacher(trainer.teacher, out)
    forget(job, "finetune")


def load_plain(folder: Path, pooled: Tensor, items: int) -> Tensor:
    """Pooled vectors of the items' texts before BERT was tuned, [items, hidden].

    Args:
        folder: the stage's.
        pooled: what its pooled.npy has.
        items: number of items.
    """
    path = folder / _PLAIN
    if not path.exists():
        return pooled[:items]
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


@torch.no_grad()
def guide_of(trainer: Trainer, world: World, pooled: Tensor) -> tuple[Teacher, Tensor]:
    """The teacher of a finished trainer, and its item vectors from the `pooled` vectors of `world`'s texts."""
    return trainer.teacher, trainer.teacher.item_vectors(trainer.teacher.text_vectors(pooled[: world.items]))


def _teach(job: Job, world: World, out: Path, number: int, guides: Guides | None = None) -> tuple[Trainer, MovingTrunk]:
    """Train a teacher, from where it was stopped if it was, and the trunk that encoded its texts; 0 is kept."""
    settings, plan = job.settings, job.settings.plan
    seed, epochs = settings.seed + number, settings.epochs or plan.finetune_epochs
    torch.manual_seed(seed)
    bank = _bank(job, world)
    if number == 0:
        save_sentences(world.originals(bank.pooled), out, settings.seed)
    teacher = Teacher(
        bank.trunk.width,
        plan.dimensions,
        world.items,
        plan.max_history + 1,  # one more place than events: the query comes behind a full history
        ranker=settings.ranker,
        dropout=settings.dropout,
    )
    is_along = bank.trunk.moves and settings.moves == "along"
    trainer = Trainer(settings, world, bank.pooled, teacher, epochs, seed, guides, bank if is_along else None)
    with job.progress("fine-tune" if number == 0 else f"teacher {number}", epochs) as step:
        curve = Curve(out, f"curve-{number}" if number else "curve")
        Epochs(trainer, resume_of(job, "finetune", str(number)), curve, settings.patience).to(epochs, step)
    return trainer, bank.trunk


def _bank(job: Job, world: World) -> MovingBank:
    """Every text through the checkpoint."""
    settings, checkpoint, texts = job.settings, job.folder("data") / "checkpoint", world.ways.all
    with job.progress("read texts", chunks(texts)) as step:
        rows = TokenRows(load_tokenizer(checkpoint, settings.plan.max_tokens), texts, step)
    depth: int = BertConfig.from_pretrained(checkpoint).num_hidden_layers
    trunk = MovingTrunk(checkpoint, rows, settings.moving_layers(depth), settings.lora)
    with job.progress("encode texts", trunk.batches) as step:
        return MovingBank(trunk, settings.encoded, step)


def _absorb(job: Job, world: World, out: Path, trainer: Trainer, trunk: MovingTrunk) -> Tensor:
    """Move BERT's layers towards the trained teacher's items; the texts' vectors then, [texts, hidden]."""
    settings = job.settings
    absorber = Absorber(settings, world, trunk, trainer.teacher, trainer.pooled, settings.seed, job.progress)
    with job.progress("move BERT", settings.passes) as step:
        Epochs(absorber, resume_of(job, "finetune", "trunk"), Curve(out, "curve-trunk"), settings.patience).to(
            settings.passes, step
        )
    return absorber.pooled


@torch.no_grad()
def place_untaken(
    teacher: Teacher, world: World, plain: Tensor, pooled: Tensor, cases: Cases, seed: int
) -> Placed | None:
    """Put into the residuals of items that nobody took what their texts' vectors lack; where each item would stand so.

    Args:
        teacher: whose residuals are changed.
        world: what it was trained on.
        plain: pooled vectors of the items' texts before BERT moved, [items, hidden].
        pooled: pooled vectors of every text now, [texts, hidden].
        cases: users, and what they took next.
        seed: of the choice of items that are held out.
    """
    is_taken = world.is_taken.cpu().numpy()
    if not can_place(is_taken):
        return None
    texts, items, users = _vectors_of(teacher, world, pooled, cases.histories)
    crowd = Crowd(users, cases.masked, cases.targets)
    placed = place_newcomers(_unmoved(plain), items, is_taken, crowd, seed)
    if placed is not None:
        _put(teacher, world, texts, placed.vectors[~is_taken])
    return placed


@torch.no_grad()
def place_untaken_again(
    teacher: Teacher, world: World, plain: Tensor, pooled: Tensor, histories: Histories, choice: Choice
) -> None:
    """The same for a teacher that was trained again, as was chosen for the first one.

    Args:
        teacher: whose residuals are changed.
        world: what it was trained on.
        plain: see `place_untaken`.
        pooled: see `place_untaken`.
        histories: of users.
        choice: how items are placed.
    """
    texts, items, users = _vectors_of(teacher, world, pooled, histories)
    _put(teacher, world, texts, place_again(_unmoved(plain), items, world.is_taken.cpu().numpy(), users, choice))


def _vectors_of(
    teacher: Teacher, world: World, pooled: Tensor, histories: Histories
) -> tuple[Tensor, Vectors, Vectors]:
    """Vectors of the items' texts and of the items, each [items, d], and of the users behind histories, [users, d]."""
    texts = teacher.text_vectors(pooled[: world.items])
    items = teacher.item_vectors(texts)
    users = torch.cat([*users_of(teacher, items, Kind.ITEM, histories, teacher.max_length - 1)])
    return texts, items.cpu().numpy(), users.cpu().numpy()


def _unmoved(plain: Tensor) -> TextVectors:
    """Gives unit vectors of items' texts before anything has moved, from pooled vectors [items, hidden]."""

    def vectors(rows: NDArray[np.int64]) -> Vectors:
        found: Vectors = functional.normalize(plain[torch.as_tensor(rows)], dim=-1).cpu().numpy()
        return found

    return vectors


def _put(teacher: Teacher, world: World, texts: Tensor, new: Vectors) -> None:
    """Set the residuals of the items that nobody took so that their vectors are `new`, [those items, d]."""
    is_new = ~world.is_taken
    teacher.residual[is_new] = torch.as_tensor(new).to(texts) - texts[is_new]
