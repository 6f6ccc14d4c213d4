"""Templates of queries: for training, for fitting the blend's weights, and for evaluation only.

`{a}`, `{b}` and `{c}` are attribute values, `{noun}` is a word such as "film", `{title}` a title as people say it. The
three sets are disjoint, so that evaluation measures quality on new wordings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_IN_BRACKETS = re.compile(r"\s*[(\[][^)\]]*[)\]]")


@dataclass(frozen=True, slots=True)
class Templates:
    """Templates by kind of query.

    Args:
        single: one attribute value.
        pair: two values that an item has at once.
        triple: three of them.
        negation: an item has `{a}` and does not have `{b}`.
        similar: the next interactions after an item.
    """

    single: tuple[str, ...]
    pair: tuple[str, ...]
    triple: tuple[str, ...]
    negation: tuple[str, ...]
    similar: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Every template."""
        return (*self.single, *self.pair, *self.triple, *self.negation, *self.similar)


TRAINING = Templates(
    single=("{a}", "{a} {noun}s", "the best {a} {noun}s", "show me {a} {noun}s", "some {a}"),
    pair=("{a} and {b}", "{a} {b} {noun}s"),
    triple=("{a}, {b} and {c}", "{a} {b} {c} {noun}s"),
    negation=("{a} but not {b}", "{a} {noun}s without {b}", "not {b} but {a}"),
    similar=("{noun}s like {title}", "similar to {title}"),
)
VALIDATION = Templates(
    single=("{a} please", "good {a}", "{noun}s, {a}"),
    pair=("{b} with {a}", "{noun}: {a} {b}"),
    triple=("{b} {c} {a}", "{noun} {a}/{b}/{c}"),
    negation=("{a} and no {b}",),
    similar=(),
)
EVALUATION = Templates(
    single=(),
    pair=("something {a} and also {b}", "a {noun} that is both {a} and {b}", "{a}, but with {b} in it"),
    triple=("i want {a}, {b}, {c}", "a {noun} for me: {a}, {b}, also {c}"),
    negation=("no {b}, {a}", "a {a} {noun} that is not {b}", "{a}, anything except {b}"),
    similar=("something like {title}", "more {noun}s in the style of {title}", "i liked {title}, what next"),
)


def spoken_title(title: str) -> str:
    """The title as people type it: in lower case, without brackets and their content."""
    return (_IN_BRACKETS.sub("", title).strip() or title).lower()
