"""The head of a trained recommender: pooling, an optional dense layer, and item rows of a classifier."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import Tensor

from swiftrec.export.checkpoints.weights import read_tensors
from swiftrec.export.errors import CheckpointError

_FIELDS, _TENSORS = "head.json", "head.safetensors"


@dataclass(frozen=True, slots=True)
class HeadShape:
    """How token vectors become one vector, and how vectors are compared.

    Args:
        kind: "classifier" (its labels are the items) or "bi-encoder" (an item's vector is its text's).
        mode: "cls" takes the first token's vector, "mean" the mean over the tokens.
        activation: of the dense layer, if there is one: "tanh", "relu", "gelu" or "identity".
        with_one: append 1, so that a classifier's bias is the last entry of its rows, and unit vectors rank the same.
        similarity: "cosine", or "dot" if the length of an item's vector matters.
    """

    kind: Literal["classifier", "bi-encoder"]
    mode: Literal["cls", "mean"]
    activation: Literal["tanh", "relu", "gelu", "identity"] = "identity"
    with_one: bool = False
    similarity: Literal["cosine", "dot"] = "cosine"


_SHAPE = TypeAdapter(HeadShape)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an adopted checkpoint.

    Args:
        shape: how it pools.
        weight: dense layer, float32 [width, hidden], or None.
        bias: bias of the dense layer, float32 [width], or None.
        labels: a classifier's item ids, in the order of its rows.
        rows: a classifier's weights of each label, then its bias, float32 [labels, width + 1], or None.
    """

    shape: HeadShape
    weight: Tensor | None = None
    bias: Tensor | None = None
    labels: tuple[str, ...] = ()
    rows: Tensor | None = None

    @property
    def pooling(self) -> dict[str, object]:
        """The pooling, for the backbone's config.json, so that models built from it pool in the same way."""
        width = 0 if self.weight is None else len(self.weight)
        shape = self.shape
        return {"mode": shape.mode, "width": width, "activation": shape.activation, "with_one": shape.with_one}

    def save(self, folder: Path) -> None:
        """Write `head.json` and `head.safetensors`."""
        (folder / _FIELDS).write_text(json.dumps(asdict(self.shape) | {"labels": self.labels}))
        parts = {"weight": self.weight, "bias": self.bias, "rows": self.rows}
        save_file({name: part.contiguous() for name, part in parts.items() if part is not None}, folder / _TENSORS)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read what `save` wrote; None if the checkpoint is a plain encoder.

        Raises:
            CheckpointError: it is damaged (the folder may be an earlier teacher that is used as a checkpoint).
        """
        if not (folder / _FIELDS).exists():
            return None
        try:
            fields = json.loads((folder / _FIELDS).read_text())
            labels = tuple(fields.pop("labels"))
            return cls(_SHAPE.validate_python(fields), labels=labels, **read_tensors(folder / _TENSORS))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            said = " ".join(str(error).split())
            raise CheckpointError(f"{folder / _FIELDS}: cannot be read ({said}): export that teacher again") from None

    def rows_of(self, items: list[str]) -> Tensor:
        """A classifier's rows in the order of `items`, all of which must be labels."""
        if self.rows is None:
            raise ValueError("a bi-encoder has no rows")
        numbers = {label: n for n, label in enumerate(self.labels)}
        return self.rows[torch.tensor([numbers[item] for item in items])]
