"""Without interactions: how closely a variant agrees with the checkpoint as its own library runs it."""

from __future__ import annotations

from swiftrec.export.evaluate.metrics import best, common, mean_interval
from swiftrec.export.evaluate.reference import Reference
from swiftrec.export.schema.record import MeanInterval
from swiftrec.server.arrays import Vectors


def agreement(reference: Reference, variant: Vectors, items: Vectors, seed: int) -> dict[str, MeanInterval]:
    """The "cosine" of a variant's and the reference's vectors, and the "overlap" of their ten best items.

    Args:
        reference: what the checkpoint's own library computed for some texts.
        variant: unit vectors of the same texts, [texts, d].
        items: item vectors of the whole catalogue, [items, d].
        seed: of the intervals.
    """
    compared = items[reference.items].T
    tops = zip(reference.top, (best(vector @ compared) for vector in variant), strict=True)
    overlaps = [common(expected.tolist(), top.tolist()) for expected, top in tops]
    return {
        "cosine": mean_interval((reference.vectors * variant).sum(1).tolist(), seed),
        "overlap": mean_interval(overlaps, seed),
    }
