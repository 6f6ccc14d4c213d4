"""What of BERT moves in training. The layers below are fixed: what they say of each text is computed once."""

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
from swiftrec.export.models.encoder import load_trunk, pad
from swiftrec.export.models.pooling import pool_tokens, pooled_width

if TYPE_CHECKING:
    from peft import PeftModel

_BATCH = 64
_MAX_IN_MEMORY = 1 << 30  # bytes of pooled vectors: 700,000 texts at a width of 384
_MAX_KEPT_TOKENS = 400_000  # 600 MB at a width of 384; beyond it the fixed layers run again for each text
_LORA_TARGETS = ["query", "key", "value", "dense"]


class MovingTrunk(nn.Module):
    """Texts, by their position in `rows`, to pooled vectors.

    There is no dropout in BERT here: the vectors of a text wait in a bank until its next turn, and noise that waits is
    no regulariser.
    """

    def __init__(self, folder: Path, rows: Sequence[list[int]], layers: int | None, lora: int = 0) -> None:
        """`layers` that move, counted from the top (None: all, with the embeddings); `lora` is a rank or 0."""
        super().__init__()
        self.bert = load_trunk(folder)
        self.bert.train(mode=False)
        self._rows, self._folder = rows, folder
        self.lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        """Word pieces of each text."""
        stack = self.bert.encoder.layer
        self._first = first_moving(len(stack), layers)
        self._is_whole = layers is None
        self._kept: dict[int, Tensor] = {}
        self._free(lora)
        self._can_keep = self._first > 0 and self.moves and int(self.lengths.sum()) <= _MAX_KEPT_TOKENS

    def _free(self, lora: int) -> None:
        """Let the layers move that shall; with LoRA only the small matrices beside their weights."""
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
    def moves(self) -> bool:
        """Whether anything of it is trained."""
        return any(p.requires_grad for p in self.parameters())

    def merged(self) -> BertModel:
        """The BERT that was trained, LoRA's matrices added to its weights; it is no longer to be trained then."""
        if self._adapted is not None:
            self._adapted.merge_and_unload()  # in place
            self._adapted = None
        return self.bert

    def forward(self, texts: list[int], shift: Tensor | None = None) -> Tensor:
        """Pooled vectors, [len(texts), hidden]; the gradient goes into the layers that move.

        With `shift` [texts, tokens, hidden], which is added to the words' embeddings, it goes down to these, too.
        """
        ids, mask = pad([self._rows[n] for n in texts])
        wide = (1.0 - mask[:, None, None, :]) * torch.finfo(torch.float32).min
        if self._is_whole or shift is not None:
            hidden = self._read(ids, wide, shift)
        else:
            with torch.no_grad():
                hidden = self._below(texts, ids, wide)
        for layer in self.bert.encoder.layer[self._first :]:
            hidden = layer(hidden, wide)[0]
        return pool_tokens(self.bert, hidden, mask)

    @torch.no_grad()
    def words(self, texts: list[int]) -> Tensor:
        """The embeddings of their words, [texts, tokens, hidden], without position; 0 where a text has ended."""
        ids, mask = pad([self._rows[n] for n in texts])
        found: Tensor = self.bert.embeddings.word_embeddings(ids) * mask.unsqueeze(-1)
        return found

    def all(self, step: Callable[[], None] = lambda: None) -> Tensor:
        """Pooled vectors of all texts, without gradient; `step` is called after each of `batches` parts."""
        pooled = self._room()
        self.encode_into(pooled, np.arange(len(self._rows)), step)
        return pooled

    @torch.no_grad()
    def encode_into(self, pooled: Tensor, texts: NDArray[np.int64], step: Callable[[], None]) -> None:
        """Write the pooled vectors of `texts` into their rows of `pooled` [all texts, hidden], without gradient.

        Short and long texts take turns, so that what is left can be told from what is done; `step` is called after
        each of `batches_of(texts)` parts.
        """
        parts = by_length(self.lengths[texts], _BATCH)
        for n in np.random.default_rng(0).permutation(len(parts)):
            batch = texts[parts[n]].tolist()
            pooled[batch] = self(batch).float()
            step()

    @property
    def batches(self) -> int:
        """How often `all` calls `step`."""
        return batches_of(self._rows)

    def _room(self) -> Tensor:
        """Zeros [texts, width]; large ones lie on disk, in a file without a name that ends with the tensor."""
        shape = (len(self._rows), self.width)
        if 4 * shape[0] * shape[1] <= _MAX_IN_MEMORY or torch.get_default_device().type != "cpu":
            return torch.zeros(shape)
        with tempfile.TemporaryFile(dir=self._folder.parent) as file:
            return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))

    def _read(self, ids: Tensor, wide: Tensor, shift: Tensor | None = None) -> Tensor:
        """What the first layer that moves reads, [texts, tokens, hidden], through all that is below it."""
        words = self.bert.embeddings.word_embeddings(ids)
        hidden: Tensor = self.bert.embeddings(
            inputs_embeds=words if shift is None else words + shift, token_type_ids=torch.zeros_like(ids)
        )
        for layer in self.bert.encoder.layer[: self._first]:
            hidden = layer(hidden, wide)[0]
        return hidden

    def _below(self, texts: list[int], ids: Tensor, wide: Tensor) -> Tensor:
        """The same, from what was kept of these texts if they have been read before."""
        if all(n in self._kept for n in texts):
            hidden = torch.zeros(*ids.shape, self.bert.config.hidden_size)
            for row, n in zip(hidden, texts, strict=True):
                row[: len(self._kept[n])] = self._kept[n]
            return hidden
        hidden = self._read(ids, wide)
        if self._can_keep:
            self._kept |= {n: row[: len(self._rows[n])].clone() for n, row in zip(texts, hidden, strict=True)}
        return hidden


def batches_of(texts: Sized) -> int:
    """In how many parts texts are encoded."""
    return -(-len(texts) // _BATCH)


def first_moving(depth: int, layers: int | None) -> int:
    """Which of BERT's `depth` layers is the first that moves where the last `layers` do; None: all.

    Raises:
        ExportError: there are not so many.
    """
    if layers is not None and layers > depth:
        raise ExportError(
            f"--trunk {layers}: the checkpoint has {depth} layers: name at most {depth}, or 'all' or 'frozen'"
        )
    return 0 if layers is None else depth - layers


def _with_lora(bert: BertModel, rank: int, layers: list[int]) -> PeftModel:
    """The BERT with low-rank matrices beside the weights of `layers` (Hu et al., ICLR 2022), in place."""
    try:
        from peft import LoraConfig, get_peft_model  # seconds to import: only who wants it waits
    except ImportError as error:
        raise ExportError("--lora needs peft: install the extra 'export'") from error
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_LORA_TARGETS, layers_to_transform=layers)
    return get_peft_model(bert, config).eval()
