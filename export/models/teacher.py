"""The teacher: text vectors, item vectors and the ranker over them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from swiftrec.export.data.text_variants import TextRows, Texts
from swiftrec.export.errors import CheckpointError
from swiftrec.export.models.rankers import make_ranker

PRIOR_EVENTS = 3.0  # an item with this many events has half of its residual
_BLOCK_ROWS = 65_536  # items whose texts are projected at a time


class Teacher(nn.Module):
    """Projection of pooled BERT vectors, a residual for each item, and the ranker.

    The item vector is text vector + residual. The residual is dropped at random in training, so that an unseen item
    (or text) can be ranked by its text alone.
    """

    residual_weights: Tensor

    def __init__(
        self,
        hidden: int,
        dimensions: int,
        items: int,
        max_length: int,
        *,
        ranker: str = "transformer",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.kind, self.max_length = ranker, max_length
        self.has_sparse_gradients = False  # of the residuals, as `torch.nn.Embedding(sparse=True)`
        self.projection = nn.Linear(hidden, dimensions, bias=False)
        self.residual = nn.Parameter(torch.zeros(items, dimensions))
        self.register_buffer("residual_weights", torch.ones(items, 1), persistent=False)
        self.ranker = make_ranker(ranker, dimensions, max_length, dropout)

    def text_vectors(self, pooled: Tensor) -> Tensor:
        """Unit vectors, [..., dimensions], of pooled BERT vectors [..., hidden]."""
        return functional.normalize(self.projection(pooled), dim=-1)

    def residuals(self, items: Tensor) -> Tensor:
        """Residuals of the items at these positions (int64 [items]), [items, dimensions]."""
        rows = functional.embedding(items, self.residual, sparse=self.has_sparse_gradients)
        return rows * self.residual_weights[items]

    def item_vectors(self, texts: Tensor) -> Tensor:
        """Vectors of all items, [items, dimensions], from the vectors of their texts."""
        return texts + self.residual * self.residual_weights

    @torch.no_grad()
    def all_item_vectors(self, pooled: Tensor) -> Tensor:
        """`item_vectors` from the pooled vectors of the items' texts, [items, hidden], a block of rows at a time."""
        blocks = [self.text_vectors(rows.to(self.residual.device)) for rows in torch.split(pooled, _BLOCK_ROWS)]
        return self.item_vectors(torch.cat(blocks))

    def weight_residuals(self, events: Tensor) -> None:
        """Keep items with few of `events` [items] near their texts: a residual counts n / (n + `PRIOR_EVENTS`)."""
        self.residual_weights = (events / (events + PRIOR_EVENTS)).unsqueeze(1).to(self.residual)

    @torch.no_grad()
    def apply_weights(self) -> None:
        """Multiply the residuals by their weights, and set the weights to 1."""
        self.residual.mul_(self.residual_weights)
        self.residual_weights = torch.ones_like(self.residual_weights)


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Pooled BERT vectors of all texts: `variants` [variants, items, hidden], `phrases` [phrases, hidden]."""

    variants: Tensor
    phrases: Tensor

    @classmethod
    def of(cls, pooled: Tensor, texts: Texts) -> TextFeatures:
        """Views of the rows of `texts.all`, [texts, hidden]."""
        rows = texts.rows
        return cls(pooled[: rows.first_phrase].view(rows.variants, rows.items, -1), pooled[rows.phrases])

    @property
    def rows(self) -> TextRows:
        """The row numbers of the texts."""
        variants, items, _ = self.variants.shape
        return TextRows(items, variants)


def save_teacher(teacher: Teacher, folder: Path) -> None:
    """Write `teacher.safetensors` and `teacher.json`."""
    save_file({k: v.contiguous() for k, v in teacher.state_dict().items()}, folder / "teacher.safetensors")
    shape = {
        "hidden": teacher.projection.in_features,
        "dimensions": teacher.projection.out_features,
        "items": teacher.residual.shape[0],
        "max_length": teacher.max_length,
        "ranker": teacher.kind,
    }
    (folder / "teacher.json").write_text(json.dumps(shape))


def load_teacher(folder: Path) -> Teacher:
    """Read the files of `save_teacher`.

    Raises:
        CheckpointError: a file is damaged (the folder may be a checkpoint that a user gave).
    """
    try:
        teacher = Teacher(**json.loads((folder / "teacher.json").read_text()))
        teacher.load_state_dict(load_file(folder / "teacher.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder / 'teacher.json'}: no teacher can be read ({reason}): export it again"
        ) from error
    return teacher.eval()
