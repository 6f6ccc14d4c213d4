"""Stage `finetune`: the teacher. BERT's pooled vectors are computed once; what is trained stands on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.data.dataset import Dataset
from export.data.phrases import Texts
from export.data.split import split
from export.stage import Job
from export.train.adopt import adopt, is_adopted
from export.train.encoder import TextEncoder, by_length, load_tokenizer, load_trunk, pad
from export.train.examples import QuerySampler, steps_per_epoch, windows
from export.train.loss import Step, fitting_items
from export.train.teacher import Bank, Teacher, save_teacher

_BATCH = 32
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 0.05


def run(job: Job, out: Path) -> None:
    """Write pooled.npy (float32 [texts, hidden], rows of `Texts.all`) and the teacher."""
    if is_adopted(job):
        adopt(job, out)
        return
    torch.manual_seed(job.settings.seed)
    data = job.folder("data")
    dataset, texts = Dataset.load(data), Texts.load(data)
    pooled = _pool(job, texts.all)
    np.save(out / "pooled.npy", pooled, allow_pickle=False)
    plan = job.settings.plan
    # One more place than events: the query comes behind a full history.
    teacher = Teacher(pooled.shape[1], plan.dimensions, len(dataset.items), plan.max_history + 1)
    _train(job, teacher, Bank.of(pooled, texts), texts, split(dataset, job.settings.protocol).train)
    save_teacher(teacher, out)


def _pool(job: Job, texts: list[str]) -> NDArray[np.float32]:
    folder = job.folder("data") / "checkpoint"
    encoder = TextEncoder(load_trunk(folder), 1).eval()
    rows = load_tokenizer(folder, job.settings.plan.max_tokens).encode(texts)
    batches = by_length(rows, 64)
    pooled = np.zeros((len(rows), encoder.projection.in_features), dtype=np.float32)
    with job.progress("encode texts", len(batches)) as step, torch.inference_mode():
        for batch in batches:
            pooled[batch] = encoder.pool(*pad([rows[n] for n in batch])).numpy()
            step()
    return pooled


def _train(job: Job, teacher: Teacher, bank: Bank, texts: Texts, train: list[NDArray[np.int64]]) -> None:
    plan, rng = job.settings.plan, np.random.default_rng(job.settings.seed)
    popularity = torch.bincount(torch.from_numpy(np.concatenate(train)), minlength=len(teacher.residual)).float()
    fitting = fitting_items(texts.phrases, popularity)
    sampler = QuerySampler(train, texts.phrases, len(teacher.residual))
    total = steps_per_epoch(train, plan.max_history, _BATCH) * plan.finetune_epochs
    others = [p for name, p in teacher.named_parameters() if name != "residual"]
    groups = [
        {"params": others, "weight_decay": _WEIGHT_DECAY},
        {"params": [teacher.residual], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=total + 1, pct_start=0.1)
    teacher.train()
    with job.progress("fine-tune", plan.finetune_epochs) as step:
        for _ in range(plan.finetune_epochs):
            for batch in windows(train, plan.max_history, _BATCH, rng):
                chosen = torch.from_numpy(rng.integers(0, max(1, len(fitting)), _BATCH))
                loss = Step(teacher, bank).total(batch, sampler.draw(_BATCH, rng), chosen, fitting)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
            step()
    teacher.eval()
