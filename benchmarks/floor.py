"""`swiftrec bench floor`: what the same requests cost offline, at best: the lower limit for any server.

One thread on one core, with the tokenizer, the sessions and the catalogue of the server: all texts are tokenised,
sorted by length and encoded, all users ranked, scored by every part of the score, and searched for. Of each step the
best batch size counts (of encoding: for the shorter and the longer half of the texts apart), and of several passes the
fastest. On a CPU it is CPU time, on a GPU wall time.
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

from swiftrec.benchmarks import report
from swiftrec.benchmarks.machine import pinned
from swiftrec.benchmarks.process import SERVER_CORE
from swiftrec.benchmarks.workload import Asked, Name, make
from swiftrec.server.catalogue.blend import Known
from swiftrec.server.catalogue.catalogue import Catalogue, Filter
from swiftrec.server.models.bundle import load_bundle
from swiftrec.server.models.networks import EncoderModel, Kind, RankerModel, UserSequence
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
    """CPU time per request offline: one thread, sorted by length, best batch size."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench floor", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(None, description="encoder, e.g. bert3-int8; the bundle's default if not given")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where the models run (cuda: never run on a GPU yet)")
    workload: Name = Field("words", description="what is asked: see benchmarks/workload.py")
    texts: int = Field(1_000, ge=1, description="requests")
    batch: list[int] = Field(list(BATCHES), description="batch sizes of the encoder that are tried")
    seed: int = Field(7, description="of the requests; the load generator with this seed begins with the same ones")
    parts: Annotated[str, AfterValidator(check_parts)] = Field(
        ",".join(PARTS), description="parts of the score that count, as the server's --parts"
    )
    core: int = Field(SERVER_CORE, ge=0, description="core that it runs on")


@dataclass(frozen=True, slots=True)
class Floor:
    """Microseconds: per text tokenising and the encoder's way with each batch size; per request each part, the sum.

    A request is one recommendation (an entry of a list), or one text of *words*. `tokens` are a request's. `grows` is
    the share of `encode_us` that grows with the tokens, in 0..1; the rest is paid for a text of any length.
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
class Part:
    """Texts of like length: how many, their tokens, and seconds to tokenise them and to encode them by batch size."""

    texts: int
    tokens: int
    tokenise: float
    by_batch: dict[int, float]

    @property
    def least(self) -> float:
        """Seconds in the best batches."""
        return self.tokenise + min(self.by_batch.values())


def run(settings: FloorSettings) -> int:
    """Measure and write the table."""
    with pinned(settings.core):  # before the session's threads start
        meter = FloorMeter(settings.bundle, settings.variant, settings.device, settings.parts)
        asked = make(settings.workload, settings.bundle, settings.texts, settings.seed)
        floor = meter.measure(asked, settings.batch)
    rows = [[str(size), f"{us:.0f}", f"{1e6 / us:.0f}"] for size, us in floor.by_batch_us.items() if us]
    text = report.table(["batch", "us per text", "texts/s"], rows)
    facts = f"{floor.tokens:.1f} tokens a request, tokenising alone {floor.tokenise_us:.0f} us a text"
    parts = f"encode {floor.encode_us:.0f} (batch {floor.best_batch}), rank {floor.rank_us:.0f}"
    best = f"floor {floor.floor_us:.0f} us a request: {parts}, search {floor.search_us:.0f}"
    report.write(f"{text}\n{facts}; {best}", asdict(floor))
    return 0


class FloorMeter:
    """The models of a bundle, loaded once, measured in this process on the cores it may use."""

    def __init__(self, bundle: Path, variant: str | None, device: str = "cpu", parts: str = ",".join(PARTS)) -> None:
        found = load_bundle(bundle)
        facts = found.manifest
        self.tokenizer = Tokenizer.load(found.folder / "tokenizer.json", facts.max_tokens)
        self.encoder = EncoderModel(open_session(found.encoder(device, variant), device))
        self.ranker = RankerModel(open_session(found.folder / "ranker.onnx", device), facts.dimensions)
        self.catalogue = Catalogue.load(found.folder, facts.sentence_dimensions)
        self.scoring = load_scoring(found, self.catalogue, parts_off(parts))
        self._most = facts.max_history
        self._clock = time.process_time if device == "cpu" else time.perf_counter

    def measure(self, asked: Asked, batches: Sequence[int] = BATCHES, seconds: float = _SECONDS) -> Floor:
        """The floor of these requests; no further pass begins after so many seconds."""
        texts, users, known = self._work(asked)
        number = len(users) or len(texts)
        self._warm_up(texts, users, max(batches))
        parts = [self._read(part, batches, seconds / 4) for part in self._halves(texts)]
        per_text = 1e6 / max(1, len(texts))
        by_batch = {size: per_text * sum(part.tokenise + part.by_batch[size] for part in parts) for size in batches}
        best = min(by_batch, key=by_batch.__getitem__)
        ordered = sorted(users, key=lambda user: len(user.kinds))
        rank = self._least({size: partial(_run, self.ranker, ordered, size) for size in BATCHES}, seconds / 4)
        search = self._least({size: partial(self._search, known, size) for size in BATCHES}, seconds / 4)
        encode = sum(part.least for part in parts)
        shares = (1e6 * encode / number, 1e6 * rank / number, 1e6 * search / number)
        tokens, tokenise = sum(part.tokens for part in parts), sum(part.tokenise for part in parts)
        return Floor(tokens / number, per_text * tokenise, by_batch, best, *shares, sum(shares), growing(parts))

    def _halves(self, texts: Sequence[str]) -> list[list[str]]:
        """The shorter and the longer ones, each sorted by tokens."""
        lengths = [len(tokens) for tokens in self.tokenizer.encode(texts)] if texts else []
        ordered = [text for _, text in sorted(zip(lengths, texts, strict=True), key=lambda pair: pair[0])]
        middle = len(ordered) // 2
        return [ordered[:middle], ordered[middle:]]

    def _read(self, texts: Sequence[str], batches: Sequence[int], seconds: float) -> Part:
        """Tokenising and encoding, if there is anything."""
        tokens = self.tokenizer.encode(texts) if texts else []
        tokenise = self._least({0: lambda: self.tokenizer.encode(texts)}, seconds) if texts else 0.0
        works = {size: partial(_run, self.encoder, tokens, size) for size in batches}
        return Part(len(texts), sum(map(len, tokens)), tokenise, fastest(works, self._clock, seconds))

    def _least(self, works: Mapping[int, Callable[[], object]], seconds: float) -> float:
        """Seconds with the best batch size."""
        return min(fastest(works, self._clock, seconds).values())

    def _work(self, asked: Asked) -> tuple[list[str], list[UserSequence], list[Known]]:
        """Every text, and every user with zeros in the place of vectors: their values do not change the cost."""
        if asked.method == "encode":
            return [text for one in asked.payloads for text in EncodeRequest.FromString(one).texts], [], []
        requests = [entry for one in asked.payloads for entry in _entries(asked, one)]
        texts = [request.query for request in requests if request.query]
        texts += [event.text for request in requests for event in request.history if event.text]
        zeros = np.zeros(self.catalogue.dimensions, dtype=np.float32)
        users = []
        for request in requests:
            length = min(len(request.history), self._most) + bool(request.query)
            users.append(UserSequence([zeros] * max(1, length), [Kind.ITEM] * max(1, length)))
        return texts, users, [self._known(request) for request in requests]

    def _known(self, request: RecommendRequest) -> Known:
        """What the parts of the score read of a request."""
        events = request.history[-self._most :]
        positions = [self.catalogue.position(event.item_id) for event in events if event.item_id]
        sentences = np.zeros((len(events), self.catalogue.sentences.shape[1]), dtype=np.float32)
        query = np.zeros(sentences.shape[1], dtype=np.float32) if request.query else None
        items = np.array([position for position in positions if position is not None], dtype=np.int64)
        return Known(len(events), items, sentences, request.query, query)

    def _search(self, known: Sequence[Known], size: int) -> None:
        """Score and search for `size` users at a time, as the server does for a list."""
        user = np.ones(self.catalogue.dimensions, dtype=np.float32)
        for start in range(0, len(known), size):
            aims = self.scoring.aims(known[start : start + size])
            allowed = [self.catalogue.mask(Filter(), ()) for _ in aims]
            users, boosts = [aim.at(user) for aim in aims], [aim.boosts for aim in aims]
            self.catalogue.search_many(users, allowed, [TOP_K] * len(aims), boosts)

    def _warm_up(self, texts: Sequence[str], users: Sequence[UserSequence], size: int) -> None:
        _run(self.encoder, self.tokenizer.encode(texts[:_WARMUP_TEXTS]), size)
        _run(self.ranker, users[:_WARMUP_TEXTS], size)


def fastest(works: Mapping[int, Callable[[], object]], clock: Callable[[], float], seconds: float) -> dict[int, float]:
    """The least time that each takes: all once, those near the best again while `seconds` of it last."""
    began, found = clock(), {}
    for size, work in works.items():
        found[size] = _took(work, clock)
    for _ in range(_PASSES - 1):
        for size in [size for size, took in found.items() if took <= _NEAR * min(found.values())]:
            if clock() - began >= seconds:
                return found
            found[size] = min(found[size], _took(works[size], clock))
    return found


def _took(work: Callable[[], object], clock: Callable[[], float]) -> float:
    before = clock()
    work()
    return clock() - before


def growing(parts: Sequence[Part]) -> float:
    """The share of the cost that grows with the tokens, by the line through the shorter and the longer texts' costs.

    All of it where the two do not tell.
    """
    if len(parts) != 2 or not all(part.texts for part in parts):
        return 1.0
    (short, low), (long, high) = [(part.tokens / part.texts, part.least / part.texts) for part in parts]
    tokens, cost = sum(part.tokens for part in parts), sum(part.least for part in parts)
    if long <= short or not cost:
        return 1.0
    return float(np.clip((high - low) / (long - short) * tokens / cost, 0.0, 1.0))


def _entries(asked: Asked, payload: bytes) -> Sequence[RecommendRequest]:
    if asked.method == "batch":
        return BatchRecommendRequest.FromString(payload).requests
    return [RecommendRequest.FromString(payload)]


def _run(model: EncoderModel | RankerModel, jobs: Sequence[list[int]] | Sequence[UserSequence], size: int) -> None:
    for start in range(0, len(jobs), size):
        model.run(jobs[start : start + size])  # type: ignore[arg-type] # each model with its own jobs
