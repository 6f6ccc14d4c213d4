"""Token ids of many texts in two flat arrays: 4 bytes a token and 8 a text, a tenth of what lists take."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from swiftrec.export.data.lazy import Lazy
from swiftrec.server.models.tokenizer import Tokenizer

CHUNK = 4_096  # texts between two calls of `step`


class TokenRows(Lazy[list[int]]):
    """The token ids of each text."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], step: Callable[[], None] = lambda: None) -> None:
        """Tokenise `texts`; `step` is called after each of `chunks(texts)` parts."""
        self._tokens, self._ends = array("i"), array("q", [0])
        for n, text in enumerate(texts, 1):
            self._tokens.extend(tokenizer.encode([text])[0])
            self._ends.append(len(self._tokens))
            if n % CHUNK == 0 or n == len(texts):
                step()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def at(self, index: int) -> list[int]:
        """Token ids of one text."""
        return self._tokens[self._ends[index] : self._ends[index + 1]].tolist()


def chunks(texts: Sequence[str]) -> int:
    """Number of calls of `step` for `texts`."""
    return -(-len(texts) // CHUNK)
