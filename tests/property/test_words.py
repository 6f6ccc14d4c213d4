"""Words put together are what the tokenizer makes of the whole text, whatever the text."""

from __future__ import annotations

_MAX = 16
_WHOLE = ["[SEP]", "[MASK]", "a[CLS]b", "na\u00efve", "\u4e2d\u6587", "\u0130stanbul", "\u03a3\u0391\u03a3", "e\u0301"]
_DROPPED = ["\u00ad", "\u200d", "\t", "\n", "\x0b", "\x1f", "\u00a0", ""]
