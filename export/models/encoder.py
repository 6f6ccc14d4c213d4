"""The text encoder: a BERT backbone, mean pooling, a projection and normalisation, as one module."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel

from swiftrec.export.checkpoints.head import Head
from swiftrec.export.errors import CheckpointError
from swiftrec.export.job import Job
from swiftrec.export.models.pooling import attach_pooling, pool_tokens, pooled_width
from swiftrec.server.models.tokenizer import Tokenizer


def teacher_checkpoint(job: Job) -> Path:
    """The tuned BERT if the stage `finetune` left one, else the BERT that training starts from."""
    tuned = job.folder("finetune") / "checkpoint"
    return tuned if tuned.exists() else job.folder("data") / "checkpoint"


def save_checkpoint(bert: BertModel, base: Path, output: Path) -> None:
    """Write the BERT as a Hugging Face folder, with the tokenizer's files from `base`."""
    shutil.copytree(base, output, ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
    bert.save_pretrained(output, safe_serialization=True)


def load_bert(folder: Path) -> BertModel:
    """Load the BERT at `folder`; a pretrained recommender has its own pooling.

    Raises:
        CheckpointError: the checkpoint's files cannot be read, or lack tensors.
    """
    try:
        # Eager attention: the traced graph is the one that ONNX Runtime's BERT fusion knows.
        loaded: tuple[BertModel, dict[str, list[str]]] = BertModel.from_pretrained(
            folder,
            add_pooling_layer=False,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded: {error}") from error
    bert, report = loaded
    if missing := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
        raise CheckpointError(f"{folder}: holds no {missing[0]} (and {len(missing) - 1} more): save the whole model")
    return attach_pooling(bert, Head.load(folder))


@torch.no_grad()
def keep_pieces(bert: BertModel, kept: list[int]) -> None:
    """Leave in the embedding table only the word pieces of these ids, in this order."""
    old = bert.embeddings.word_embeddings
    new = nn.Embedding(len(kept), old.embedding_dim, padding_idx=old.padding_idx)
    new.weight.copy_(old.weight[kept])
    bert.embeddings.word_embeddings = new
    bert.config.vocab_size = len(kept)


def load_tokenizer(folder: Path, max_tokens: int) -> Tokenizer:
    """Load the checkpoint's tokenizer as the server will run it: no fixed padding, truncation at `max_tokens`."""
    return Tokenizer.load(folder / "tokenizer.json", max_tokens)


def normalise_halves(vectors: Tensor, dimensions: int, sentence_dimensions: int) -> Tensor:
    """Scale the ranker half of each vector (the first `dimensions` entries) and the sentence half to length 1."""
    if not sentence_dimensions:
        return functional.normalize(vectors, dim=-1)
    halves = vectors[..., :dimensions], vectors[..., dimensions:]
    return torch.cat([functional.normalize(half, dim=-1) for half in halves], dim=-1)


class TextEncoder(nn.Module):
    """Token ids -> a unit vector for the ranker and, behind it, a unit vector of the sentence space."""

    def __init__(self, backbone: BertModel, dimensions: int, sentence_dimensions: int = 0) -> None:
        super().__init__()
        self.backbone = attach_pooling(backbone)
        self.dimensions, self.sentence_dimensions = dimensions, sentence_dimensions
        self.projection = nn.Linear(pooled_width(backbone), dimensions + sentence_dimensions, bias=False)

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean of the token vectors, or a pretrained head's pooling, [batch, width]; both int64 [batch, tokens]."""
        segments = torch.zeros_like(input_ids)  # given, so that the traced graph has no branch for it
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=segments)
        return pool_tokens(self.backbone, output.last_hidden_state, attention_mask)

    def project(self, pooled: Tensor) -> Tensor:
        """Both halves, [..., dimensions + sentence_dimensions], of pooled vectors [..., hidden]."""
        return normalise_halves(self.projection(pooled), self.dimensions, self.sentence_dimensions)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Both halves, [batch, dimensions + sentence_dimensions]; each is a unit vector."""
        return self.project(self.pool(input_ids, attention_mask))


def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, int64 [batch, longest], padded on the right with 0."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = torch.tensor(row)
        mask[n, : len(row)] = 1
    return ids, mask
