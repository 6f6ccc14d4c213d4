"""The static student: a text is the mean of learned vectors of its word pieces and of its neighbouring pairs.

The vectors start as model2vec has them (van Dongen and Tulkens, 2024): the teacher's vector of each word piece alone.
Where model2vec reduces them by PCA and weighs them by rank in the vocabulary, a linear map is fitted in closed form
that brings the mean over a training text's pieces nearest to the teacher's vector of the text; it is folded into the
table, as a projection behind a mean can always be. Pairs are hashed as in fastText (Joulin et al., 2017) and start at
zero, so a text of unseen pairs is the mean of its pieces.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from swiftrec.export.models.encoder import TextEncoder, normalise_halves, pad

_PIECES = 256  # word pieces through the teacher at a time
_PRIME = 1_000_003
_RIDGE = 1e-3  # of the mean variance of the pieces' vectors


class StaticEncoder(nn.Module):
    """Token ids -> both halves of a text's vector, without a transformer: one look-up in a table, a masked mean.

    The rows behind the vocabulary are the pairs'. A vector's length is its weight, in each half.
    """

    def __init__(self, vocabulary: int, pairs: int, dimensions: int, sentence_dimensions: int = 0) -> None:
        super().__init__()
        self.vocabulary, self.pairs = vocabulary, pairs
        self.dimensions, self.sentence_dimensions = dimensions, sentence_dimensions
        self.table = nn.Embedding(vocabulary + pairs, dimensions + sentence_dimensions, sparse=True)
        nn.init.zeros_(self.table.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Both halves, [batch, dimensions + sentence_dimensions]; ids and mask are int64 [batch, tokens]."""
        hashed = (input_ids[:, :-1] * _PRIME + input_ids[:, 1:]) % self.pairs + self.vocabulary
        mask = torch.cat([attention_mask, attention_mask[:, 1:]], 1).unsqueeze(-1).to(self.table.weight.dtype)
        summed = (self.table(torch.cat([input_ids, hashed], 1)) * mask).sum(1)
        means = summed / attention_mask.sum(1, keepdim=True)
        return normalise_halves(means, self.dimensions, self.sentence_dimensions)


@torch.inference_mode()
def piece_vectors(teacher: TextEncoder, empty: list[int], step: Callable[[], None]) -> Tensor:
    """The teacher's pooled vector of each word piece alone, [vocabulary, hidden]; `empty` are an empty text's ids."""
    middle, size = len(empty) // 2, teacher.backbone.config.vocab_size
    pooled = torch.zeros(size, teacher.projection.in_features)
    for start in range(0, size, _PIECES):
        block = range(start, min(size, start + _PIECES))
        pooled[start : block.stop] = teacher.pool(*pad([[*empty[:middle], n, *empty[middle:]] for n in block]))
        step()
    return pooled


def piece_batches(teacher: TextEncoder) -> int:
    """How often `piece_vectors` calls `step`."""
    return -(-int(teacher.backbone.config.vocab_size) // _PIECES)


def fit_pieces(pieces: Tensor, rows: list[list[int]], targets: Tensor) -> Tensor:
    """Vectors of the word pieces, [vocabulary, dimensions], whose mean over each row is near the target.

    Ridge regression from the mean of `pieces` [vocabulary, hidden] over the rows to `targets` [rows, dimensions].
    """
    means = torch.stack([pieces[row].mean(0) for row in rows])
    centre, target = means.mean(0), targets.mean(0)
    x, y = means - centre, targets - target
    damping = _RIDGE * len(rows) * x.var() * torch.eye(x.shape[1])
    vectors: Tensor = (pieces - centre) @ torch.linalg.solve(x.T @ x + damping, x.T @ y) + target
    return vectors
