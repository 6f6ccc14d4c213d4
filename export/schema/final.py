"""`final.json`: how the served model was trained, how it differs from the measured one, and which figures are whose."""

from __future__ import annotations

from swiftrec.export.gates import Gate
from swiftrec.export.schema.record import MeanInterval, Record

FINAL, EXPECTED, POPULARITY = "final.json", "expected.json", "popularity.json"


class HeldOut(Record):
    """NDCG@10 on the measured model's test events, by the ranker alone among items known to both models.

    The served model was trained on these events, so its metric says only that training worked, nothing about new
    events. `difference` is the mean of served - measured over the same cases.
    """

    measured: MeanInterval
    served: MeanInterval
    difference: MeanInterval
    cases: int


class FinalRecord(Record):
    """What stage `final` did.

    Args:
        events: number of events that the served model knows.
        measured_events: number of events that the measured model was trained on.
        epochs: training epochs; 0 if the measured model is served.
        loss: training loss of the last epoch.
        parity: the gate of the ranker's graph against PyTorch.
        held_out: None if nothing was trained.
        overlap: share of the top ten that both models have in common for the test's histories as ids, with all parts
            of the score; None without interactions.
        figures: which metrics are of which model, in words; empty without interactions.
    """

    events: int
    measured_events: int
    epochs: int = 0
    loss: float | None = None
    parity: Gate | None = None
    held_out: HeldOut | None = None
    overlap: float | None = None
    figures: str = ""

    @property
    def likeness(self) -> str:
        """How similar the results of the served and the measured model are, in words; empty without interactions."""
        if self.overlap is None:
            return ""
        words = f"The served and the measured model have {10 * self.overlap:.1f} of the ten best items in common"
        if self.held_out is None:
            return f"{words}, as the mean over the test's histories."
        seen = "it was trained on these very events, so this does not measure its quality"
        return (
            f"{words}, as the mean over the test's histories; the served ranker alone has NDCG@10 "
            f"{self.held_out.served} there, the measured one {self.held_out.measured}: {seen}."
        )


def trained_again(protocol: str, order: str, cold_items: int, items: int, events: int, epochs: int) -> str:
    """The sentence about a model that was trained again on all `events` with `epochs` epochs."""
    without = "each user's last two events"
    if protocol == "time":
        without = "the last fifth of the events"
    elif order == "none":
        without = "two events of each user drawn at random"
    if cold_items:
        without += f" and the events of {cold_items:,} of the {items:,} items"
    return (
        f"Figures were measured on a model trained without {without}; it is that of the epoch which validated best. "
        f"The served ranker, item vectors and memory were then trained once more on all {events:,} events with the "
        f"same settings and as many epochs ({epochs}), without validation; the served model's own quality cannot be "
        "measured on events that it has seen, and was not measured on others."
    )


def taken_as_it_is(events: int, measured_events: int) -> str:
    """The sentence about a recommender that was trained elsewhere."""
    return (
        "Figures were measured on the recommender as it was given, which is served unchanged; the served memory and "
        f"popularity know all {events:,} events, the measured ones {measured_events:,}."
    )
