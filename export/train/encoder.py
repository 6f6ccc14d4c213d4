"""The text encoder: a BERT trunk, mean pooling, a projection and normalisation, as one module."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, BertModel

from export.errors import CheckpointError
from export.stage import Job
from server.models.tokenizer import Tokenizer


def load_trunk(folder: Path, layers: list[int] | None = None) -> BertModel:
    """Load the BERT at `folder`, keeping only the given layers if any are given.

    Raises:
        CheckpointError: the checkpoint is not a BERT or its files cannot be read.
    """
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind != "bert":
        raise CheckpointError(f"{folder}: model_type is {kind!r}; this version takes 'bert'")
    try:
        # Eager attention: the traced graph is the one that ONNX Runtime's BERT fusion knows.
        trunk: BertModel = BertModel.from_pretrained(
            folder,
            add_pooling_layer=False,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded: {error}") from error
    if layers is not None:
        trunk.encoder.layer = nn.ModuleList([trunk.encoder.layer[n] for n in layers])
        trunk.config.num_hidden_layers = len(layers)
    return trunk


def load_tokenizer(folder: Path, max_tokens: int) -> Tokenizer:
    """Load the checkpoint's tokenizer as the server will run it: no fixed padding, truncation at `max_tokens`."""
    path = folder / "tokenizer.json"
    if not path.exists():
        fast = AutoTokenizer.from_pretrained(folder, use_fast=True, local_files_only=True)  # type: ignore[no-untyped-call]
        fast.backend_tokenizer.save(str(path))
    return Tokenizer.load(path, max_tokens)


def teacher_checkpoint(job: Job) -> Path:
    """The tuned BERT if the stage `finetune` left one, else the BERT that training starts from."""
    tuned = job.folder("finetune") / "checkpoint"
    return tuned if tuned.exists() else job.folder("data") / "checkpoint"


class TextEncoder(nn.Module):
    """Token ids -> unit vectors."""

    def __init__(self, trunk: BertModel, dimensions: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.projection = nn.Linear(trunk.config.hidden_size, dimensions, bias=False)

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean of the token vectors, [batch, hidden]; ids and mask are int64 [batch, tokens]."""
        segments = torch.zeros_like(input_ids)  # given, so that the traced graph has no branch for it
        output = self.trunk(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=segments)
        hidden = output.last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * mask).sum(1) / mask.sum(1)
        return pooled

    def project(self, pooled: Tensor) -> Tensor:
        """Unit vectors, [..., dimensions], of pooled vectors [..., hidden]."""
        return functional.normalize(self.projection(pooled), dim=-1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Unit vectors, [batch, dimensions]."""
        return self.project(self.pool(input_ids, attention_mask))


def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, int64 [batch, longest], padded on the right with 0."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = torch.tensor(row)
        mask[n, : len(row)] = 1
    return ids, mask


def by_length(rows: list[list[int]], size: int) -> list[list[int]]:
    """Positions of `rows` in batches of `size` rows of similar length."""
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    return [order[start : start + size] for start in range(0, len(order), size)]
