"""Tables of word pieces: whole, cut to the pieces that are kept, or as the product of two factors."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import BertModel

from swiftrec.export.models.encoder import TextEncoder


class Factorised(nn.Module):
    """Short vectors of the word pieces and one matrix that widens them (ALBERT: Lan et al., ICLR 2020)."""

    def __init__(self, pieces: int, short: int, width: int) -> None:
        super().__init__()
        self.table, self.up = nn.Embedding(pieces, short), nn.Linear(short, width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, tokens] -> [batch, tokens, width]."""
        found: Tensor = self.up(self.table(ids))
        return found


@torch.no_grad()
def factorise(trunk: BertModel, short: int) -> None:
    """Put in the place of the table its nearest product with vectors of length `short`."""
    whole = trunk.embeddings.word_embeddings.weight
    left, strength, right = torch.linalg.svd(whole, full_matrices=False)
    root = strength[:short].sqrt()
    words = Factorised(len(whole), short, whole.shape[1])
    words.table.weight.copy_(left[:, :short] * root)
    words.up.weight.copy_(right[:short].T * root)
    put_factors(trunk, words)


def put_factors(trunk: BertModel, words: Factorised) -> None:
    """Let the trunk read these; its config.json says so."""
    trunk.embeddings.add_module("word_embeddings", words)
    trunk.config.word_width = words.table.embedding_dim


def word_table(trunk: BertModel) -> nn.Embedding:
    """The table in which word pieces are looked up."""
    words: nn.Embedding | Factorised = trunk.embeddings.word_embeddings
    return words.table if isinstance(words, Factorised) else words


@torch.no_grad()
def multiplied(encoder: TextEncoder) -> TextEncoder:
    """The same encoder with a whole table, as ONNX Runtime's fusion wants it; itself if it has no factors."""
    words = encoder.trunk.embeddings.word_embeddings
    if not isinstance(words, Factorised):
        return encoder
    made = copy.deepcopy(encoder)
    table = nn.Embedding(words.table.num_embeddings, words.up.out_features)
    table.weight.copy_(words.up(words.table.weight))
    made.trunk.embeddings.word_embeddings = table
    return made


@torch.no_grad()
def keep_pieces(trunk: BertModel, kept: list[int]) -> None:
    """Leave in the table of word pieces the rows of these ids, in this order."""
    old = trunk.embeddings.word_embeddings
    new = nn.Embedding(len(kept), old.embedding_dim, padding_idx=old.padding_idx)
    new.weight.copy_(old.weight[kept])
    trunk.embeddings.word_embeddings = new
    trunk.config.vocab_size = len(kept)
