"""BERT with some fine-tuned layers. The output of the fixed layers below is computed once for each text."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BertModel

from swiftrec.export.errors import ExportError
from swiftrec.export.models.bucketing import by_length
from swiftrec.export.models.encoder import load_bert, pad
from swiftrec.export.models.pooling import pool_tokens, pooled_width

if TYPE_CHECKING:
    from peft import PeftModel

_BATCH = 64
_MAX_IN_MEMORY = 1 << 30  # bytes of pooled vectors: 700,000 texts at a width of 384
_MAX_CACHED_TOKENS = 400_000  # 600 MB at a width of 384; beyond it the fixed layers run again for each text
_LORA_TARGETS = ["query", "key", "value", "dense"]


class Backbone(nn.Module):
    """Texts, by their position in `rows`, to pooled vectors. Without dropout."""

    def __init__(self, folder: Path, rows: Sequence[list[int]], layers: int | None, lora: int = 0) -> None:
        """`layers` are fine-tuned, counted from the top (None: all, with the embeddings); `lora` is a rank or 0."""
        super().__init__()
        self.bert = load_bert(folder)
        self.bert.train(mode=False)
        self._rows, self._folder = rows, folder
        self.lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        """Word pieces of each text."""
        stack = self.bert.encoder.layer
        self._first = first_tuned_layer(len(stack), layers)
        self._is_whole = layers is None
        self._cache: dict[int, Tensor] = {}
        self._unfreeze(lora)
        self._can_cache = self._first > 0 and self.is_tuned and int(self.lengths.sum()) <= _MAX_CACHED_TOKENS

    def _unfreeze(self, lora: int) -> None:
        """Require gradients of the fine-tuned layers; with LoRA only of the low-rank matrices."""
        self.bert.requires_grad_(requires_grad=False)
        self._adapted: PeftModel | None = None
        if lora:
            self._adapted = _with_lora(self.bert, lora, list(range(self._first, len(self.bert.encoder.layer))))
        else:
            (self.bert if self._is_whole else self.bert.encoder.layer[self._first :]).requires_grad_(requires_grad=True)

    @property
    def width(self) -> int:
        """Length of a pooled vector."""
        return pooled_width(self.bert)

    @property
    def is_tuned(self) -> bool:
        """Whether any of its layers are fine-tuned."""
        return any(p.requires_grad for p in self.parameters())

    def merged(self) -> BertModel:
        """The fine-tuned BERT, with LoRA's matrices added to its weights; ends its training."""
        if self._adapted is not None:
            self._adapted.merge_and_unload()  # in place
            self._adapted = None
        return self.bert

    def forward(self, texts: list[int], perturbation: Tensor | None = None) -> Tensor:
        """Pooled vectors, [len(texts), hidden], with a gradient of the fine-tuned layers.

        With a `perturbation` [texts, tokens, hidden], which is added to the word embeddings, also of that.
        """
        ids, mask = pad([self._rows[n] for n in texts])
        wide = (1.0 - mask[:, None, None, :]) * torch.finfo(torch.float32).min
        if self._is_whole or perturbation is not None:
            hidden = self._run_fixed(ids, wide, perturbation)
        else:
            with torch.no_grad():
                hidden = self._fixed_output(texts, ids, wide)
        for layer in self.bert.encoder.layer[self._first :]:
            hidden = layer(hidden, wide)[0]
        return pool_tokens(self.bert, hidden, mask)

    @torch.no_grad()
    def word_embeddings(self, texts: list[int]) -> Tensor:
        """The texts' word embeddings, [texts, tokens, hidden], without position; 0 for padding."""
        ids, mask = pad([self._rows[n] for n in texts])
        embeddings: Tensor = self.bert.embeddings.word_embeddings(ids) * mask.unsqueeze(-1)
        return embeddings

    def encode_all(self, step: Callable[[], None] = lambda: None) -> Tensor:
        """Pooled vectors of all texts, without gradient; `step` is called after each of `batches` batches."""
        pooled = self._allocate()
        self.encode_into(pooled, np.arange(len(self._rows)), step)
        return pooled

    @torch.no_grad()
    def encode_into(self, pooled: Tensor, texts: NDArray[np.int64], step: Callable[[], None]) -> None:
        """Write the pooled vectors of `texts` into their rows of `pooled` [all texts, hidden], without gradient.

        Batches of short and long texts alternate, so that the remaining time can be estimated; `step` is called after
        each of `batch_count(texts)` batches.
        """
        batches = by_length(self.lengths[texts], _BATCH)
        for n in np.random.default_rng(0).permutation(len(batches)):
            batch = texts[batches[n]].tolist()
            pooled[batch] = self(batch).float()
            step()

    @property
    def batches(self) -> int:
        """How often `encode_all` calls `step`."""
        return batch_count(self._rows)

    def _allocate(self) -> Tensor:
        """Zeros [texts, width]; large ones are mapped from an unnamed file, which is deleted with the tensor."""
        shape = (len(self._rows), self.width)
        if 4 * shape[0] * shape[1] <= _MAX_IN_MEMORY or torch.get_default_device().type != "cpu":
            return torch.zeros(shape)
        with tempfile.TemporaryFile(dir=self._folder.parent) as file:
            return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))

    def _run_fixed(self, ids: Tensor, wide: Tensor, perturbation: Tensor | None = None) -> Tensor:
        """The output of the fixed layers, [texts, tokens, hidden]."""
        embeddings = self.bert.embeddings.word_embeddings(ids)
        if perturbation is not None:
            embeddings = embeddings + perturbation
        hidden: Tensor = self.bert.embeddings(inputs_embeds=embeddings, token_type_ids=torch.zeros_like(ids))
        for layer in self.bert.encoder.layer[: self._first]:
            hidden = layer(hidden, wide)[0]
        return hidden

    def _fixed_output(self, texts: list[int], ids: Tensor, wide: Tensor) -> Tensor:
        """The same, from the cache if it has these texts."""
        if all(n in self._cache for n in texts):
            hidden = torch.zeros(*ids.shape, self.bert.config.hidden_size)
            for row, n in zip(hidden, texts, strict=True):
                row[: len(self._cache[n])] = self._cache[n]
            return hidden
        hidden = self._run_fixed(ids, wide)
        if self._can_cache:
            self._cache |= {n: row[: len(self._rows[n])].clone() for n, row in zip(texts, hidden, strict=True)}
        return hidden


def batch_count(texts: Sized) -> int:
    """In how many batches texts are encoded."""
    return -(-len(texts) // _BATCH)


def first_tuned_layer(depth: int, layers: int | None) -> int:
    """Position of the first fine-tuned layer of a BERT of `depth`, if the last `layers` are (None: all).

    Raises:
        ExportError: `layers` is larger than `depth`.
    """
    if layers is not None and layers > depth:
        raise ExportError(
            f"--backbone-layers {layers}: the checkpoint has {depth} layers: name at most {depth}, or 'all' or 'frozen'"
        )
    return 0 if layers is None else depth - layers


def _with_lora(bert: BertModel, rank: int, layers: list[int]) -> PeftModel:
    """The BERT with low-rank matrices for the weights of `layers` (Hu et al., ICLR 2022), in place."""
    try:
        from peft import LoraConfig, get_peft_model  # takes seconds to import
    except ImportError as error:
        raise ExportError("--lora needs peft: install the extra 'export'") from error
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_LORA_TARGETS, layers_to_transform=layers)
    return get_peft_model(bert, config).eval()
