"""`swiftrec bench floor`: the cost of the same requests offline, the lower limit for any server.

One thread on one core, with the tokenizer, the sessions and the catalogue of the server: all texts are tokenised,
sorted by length and encoded, all users ranked, scored by every part of the score, and searched for. Each step counts
with its best batch size (encoding: separately for the shorter and the longer half of the texts) and its fastest pass.
On a CPU it is CPU time, on a GPU wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.environment import pinned
from swiftrec.benchmarks.server_process import SERVER_CORE
from swiftrec.benchmarks.workload import Name, Requests, make
from swiftrec.server.catalogue.blend import ScoringInput
from swiftrec.server.catalogue.catalogue import Catalogue
from swiftrec.server.domain import Filter
from swiftrec.server.models.bundle import load_bundle
from swiftrec.server.models.networks import EncoderModel, EventKind, RankerModel, UserSequence
from swiftrec.server.models.session import open_session
from swiftrec.server.models.tokenizer import Tokenizer
from swiftrec.server.parts import PARTS, check_parts, parts_off
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import BatchRecommendRequest, RecommendRequest
from swiftrec.server.pipeline.recommender import load_scoring

BATCHES = (1, 2, 4, 8, 16, 32)
_WARMUP_TEXTS = 64
_PASSES, _NEAR = 3, 1.15
_SECONDS = 4.0
TOP_K = 10


class FloorSettings(BaseSettings):
    """Measure the CPU time of a request without a server: one thread, texts sorted by length, best batch size.

    Use it as the lower limit when you judge a server. Prints the time by batch size and by step.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench floor", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(None, description="encoder, e.g. bert3-int8; the bundle's default if not given")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where the models run (cuda: never run on a GPU yet)")
    workload: Name = Field("words", description="requests to send: see benchmarks/workload.py")
    texts: int = Field(1_000, ge=1, description="number of requests")
    batch: list[int] = Field(list(BATCHES), description="batch sizes of the encoder to try")
    seed: int = Field(7, description="random seed; the load generator sends the same requests with the same seed")
    parts: Annotated[str, AfterValidator(check_parts)] = Field(
        ",".join(PARTS), description="parts of the score to use, as in swiftrec serve --parts"
    )
    core: int = Field(SERVER_CORE, ge=0, description="core to run on")


@dataclass(frozen=True, slots=True)
class Floor:
    """Microseconds a text for tokenising and encoding (by batch size), and a request for each step and in total.

    A request is one recommendation (an entry of a batch), or one text of *words*. `tokens` is the mean of a request.
    `grows` is the share of `encode_us` that grows with the tokens, in 0..1; the rest is the same for any length.
    """

    tokens: float
    tokenise_us: float
    by_batch_us: dict[int, float]
    best_batch: int
    encode_us: float
    rank_us: float
    search_us: float
    floor_us: float
    grows: float = 1.0


@dataclass(frozen=True, slots=True)
class TextGroup:
    """Texts of similar length: their number and tokens, and seconds to tokenise and (by batch size) to encode them."""

    texts: int
    tokens: int
    tokenise: float
    by_batch: dict[int, float]

    @property
    def least(self) -> float:
        """Seconds with the best batch size."""
        return self.tokenise + min(self.by_batch.values())


def run(settings: FloorSettings) -> int:
    """Measure and print the table."""
    with pinned(settings.core):  # before the session's threads start
        meter = FloorMeter(settings.bundle, settings.variant, settings.device, settings.parts)
        requests = make(settings.workload, settings.bundle, settings.texts, settings.seed)
        floor = meter.measure(requests, settings.batch)
    rows = [[str(size), f"{us:.0f}", f"{1e6 / us:.0f}"] for size, us in floor.by_batch_us.items() if us]
    text = formatting.table(["batch", "us per text", "texts/s"], rows)
    line = f"{floor.tokens:.1f} tokens a request, tokenising alone {floor.tokenise_us:.0f} us a text"
    parts = f"encode {floor.encode_us:.0f} (batch {floor.best_batch}), rank {floor.rank_us:.0f}"
    steps = f"floor {floor.floor_us:.0f} us a request: {parts}, search {floor.search_us:.0f}"
    formatting.print_result(f"{text}\n{line}; {steps}", asdict(floor))
    return 0


class FloorMeter:
    """The models of a bundle, loaded once, measured in this process on the cores it may use."""

    def __init__(self, bundle: Path, variant: str | None, device: str = "cpu", parts: str = ",".join(PARTS)) -> None:
        opened = load_bundle(bundle)
        manifest = opened.manifest
        self.tokenizer = Tokenizer.load(opened.folder / "tokenizer.json", manifest.max_tokens)
        self.encoder = EncoderModel(open_session(opened.encoder(device, variant), device))
        self.ranker = RankerModel(open_session(opened.folder / "ranker.onnx", device), manifest.dimensions)
        self.catalogue = Catalogue.load(opened.folder, manifest.sentence_dimensions)
        self.scoring = load_scoring(opened, self.catalogue, parts_off(parts))
        self._max_history = manifest.max_history
        self._clock = time.process_time if device == "cpu" else time.perf_counter

    def measure(self, requests: Requests, batches: Sequence[int] = BATCHES, seconds: float = _SECONDS) -> Floor:
        """The floor of these requests; no further pass starts after `seconds`."""
        texts, users, inputs = self._work(requests)
        number = len(users) or len(texts)
        self._warm_up(texts, users, max(batches))
        groups = [self._time_texts(half, batches, seconds / 4) for half in self._halves(texts)]
        per_text = 1e6 / max(1, len(texts))
        by_batch = {size: per_text * sum(group.tokenise + group.by_batch[size] for group in groups) for size in batches}
        best_batch = min(by_batch, key=by_batch.__getitem__)
        ordered = sorted(users, key=lambda user: len(user.kinds))
        rank = self._least({size: partial(_run, self.ranker, ordered, size) for size in BATCHES}, seconds / 4)
        search = self._least({size: partial(self._search, inputs, size) for size in BATCHES}, seconds / 4)
        encode = sum(group.least for group in groups)
        shares = (1e6 * encode / number, 1e6 * rank / number, 1e6 * search / number)
        tokens, tokenise = sum(group.tokens for group in groups), sum(group.tokenise for group in groups)
        return Floor(tokens / number, per_text * tokenise, by_batch, best_batch, *shares, sum(shares), growing(groups))

    def _halves(self, texts: Sequence[str]) -> list[list[str]]:
        """The shorter and the longer half of the texts, each sorted by tokens."""
        lengths = [len(tokens) for tokens in self.tokenizer.encode(texts)] if texts else []
        ordered = [text for _, text in sorted(zip(lengths, texts, strict=True), key=lambda pair: pair[0])]
        middle = len(ordered) // 2
        return [ordered[:middle], ordered[middle:]]

    def _time_texts(self, texts: Sequence[str], batches: Sequence[int], seconds: float) -> TextGroup:
        """Time tokenising and encoding."""
        tokens = self.tokenizer.encode(texts) if texts else []
        tokenise = self._least({0: lambda: self.tokenizer.encode(texts)}, seconds) if texts else 0.0
        works = {size: partial(_run, self.encoder, tokens, size) for size in batches}
        return TextGroup(len(texts), sum(map(len, tokens)), tokenise, fastest(works, self._clock, seconds))

    def _least(self, works: Mapping[int, Callable[[], object]], seconds: float) -> float:
        """Seconds with the best batch size."""
        return min(fastest(works, self._clock, seconds).values())

    def _work(self, requests: Requests) -> tuple[list[str], list[UserSequence], list[ScoringInput]]:
        """Every text, and every user with zeros instead of vectors: their values do not change the cost."""
        if requests.method == "encode":
            return [text for payload in requests.payloads for text in EncodeRequest.FromString(payload).texts], [], []
        entries = [entry for payload in requests.payloads for entry in _entries(requests, payload)]
        texts = [request.query for request in entries if request.query]
        texts += [event.text for request in entries for event in request.history if event.text]
        zeros = np.zeros(self.catalogue.dimensions, dtype=np.float32)
        users = []
        for request in entries:
            length = min(len(request.history), self._max_history) + bool(request.query)
            users.append(UserSequence([zeros] * max(1, length), [EventKind.ITEM] * max(1, length)))
        return texts, users, [self._scoring_input(request) for request in entries]

    def _scoring_input(self, request: RecommendRequest) -> ScoringInput:
        """Input of the score's parts for a request."""
        events = request.history[-self._max_history :]
        positions = [self.catalogue.position(event.item_id) for event in events if event.item_id]
        sentences = np.zeros((len(events), self.catalogue.sentences.shape[1]), dtype=np.float32)
        query = np.zeros(sentences.shape[1], dtype=np.float32) if request.query else None
        items = np.array([position for position in positions if position is not None], dtype=np.int64)
        return ScoringInput(len(events), items, sentences, request.query, query)

    def _search(self, inputs: Sequence[ScoringInput], size: int) -> None:
        """Score and search for `size` users at a time, as the server does for a batch."""
        user = np.ones(self.catalogue.dimensions, dtype=np.float32)
        for start in range(0, len(inputs), size):
            terms = self.scoring.terms(inputs[start : start + size])
            allowed = [self.catalogue.resolve_filter(Filter(), ()) for _ in terms]
            users, boosts = [term.at(user) for term in terms], [term.boosts for term in terms]
            self.catalogue.search_many(users, allowed, [TOP_K] * len(terms), boosts)

    def _warm_up(self, texts: Sequence[str], users: Sequence[UserSequence], size: int) -> None:
        _run(self.encoder, self.tokenizer.encode(texts[:_WARMUP_TEXTS]), size)
        _run(self.ranker, users[:_WARMUP_TEXTS], size)


def fastest(works: Mapping[int, Callable[[], object]], clock: Callable[[], float], seconds: float) -> dict[int, float]:
    """The shortest time of each: all run once, those near the best again until `seconds` are over."""
    began, times = clock(), {}
    for size, work in works.items():
        times[size] = _time(work, clock)
    for _ in range(_PASSES - 1):
        for size in [size for size, duration in times.items() if duration <= _NEAR * min(times.values())]:
            if clock() - began >= seconds:
                return times
            times[size] = min(times[size], _time(works[size], clock))
    return times


def _time(work: Callable[[], object], clock: Callable[[], float]) -> float:
    before = clock()
    work()
    return clock() - before


def growing(groups: Sequence[TextGroup]) -> float:
    """The share of the cost that grows with the tokens, by the line through the costs of shorter and longer texts.

    It is 1 if the two do not determine a line.
    """
    if len(groups) != 2 or not all(group.texts for group in groups):
        return 1.0
    (short, low), (long, high) = [(group.tokens / group.texts, group.least / group.texts) for group in groups]
    tokens, cost = sum(group.tokens for group in groups), sum(group.least for group in groups)
    if long <= short or not cost:
        return 1.0
    return float(np.clip((high - low) / (long - short) * tokens / cost, 0.0, 1.0))


def _entries(requests: Requests, payload: bytes) -> Sequence[RecommendRequest]:
    if requests.method == "batch":
        return BatchRecommendRequest.FromString(payload).requests
    return [RecommendRequest.FromString(payload)]


def _run(model: EncoderModel | RankerModel, rows: Sequence[list[int]] | Sequence[UserSequence], size: int) -> None:
    for start in range(0, len(rows), size):
        model.run(rows[start : start + size])  # type: ignore[arg-type] # each model with its own rows
