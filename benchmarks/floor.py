"""`python -m benchmarks floor`: what the same requests cost offline, at best: the lower limit for any server.

One thread on one core, with the tokenizer, the sessions and the catalogue of the server: all texts are tokenised,
sorted by length and encoded in batches, all users ranked in batches, each searched; the batch size that takes the least
time counts. On a CPU it is CPU time, on a GPU wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks import report
from benchmarks.machine import pinned
from benchmarks.process import SERVER_CORE
from benchmarks.workload import Asked, Name, make
from server.catalogue.catalogue import Catalogue, Filter
from server.models.bundle import load_bundle
from server.models.encoder import EncoderModel
from server.models.ranker import Kind, RankerModel, UserSequence
from server.models.session import open_session
from server.models.tokenizer import Tokenizer
from server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest
from server.pb.swiftrec.v1.recommender_pb2 import BatchRecommendRequest, RecommendRequest

_WARMUP_TEXTS = 64
TOP_K = 10


class FloorSettings(BaseSettings):
    """CPU time per request offline: one thread, sorted by length, best batch size."""

    model_config = SettingsConfigDict(cli_prog_name="python -m benchmarks floor", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(None, description="encoder precision; the bundle's default if not given")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where the models run (cuda: never run on a GPU yet)")
    workload: Name = Field("words", description="what is asked: see benchmarks/workload.py")
    texts: int = Field(1_000, ge=1, description="requests")
    batch: list[int] = Field([1, 2, 4, 8, 16, 32], description="batch sizes that are tried")
    seed: int = Field(7, description="of the requests; the load generator with this seed begins with the same ones")
    core: int = Field(SERVER_CORE, ge=0, description="core that it runs on")


@dataclass(frozen=True, slots=True)
class Floor:
    """Microseconds: per text tokenising and the encoder's way with each batch size; per request each part, the sum.

    A request is one recommendation (an entry of a list), or one text of *words*. `tokens` are a request's.
    """

    tokens: float
    tokenise_us: float
    by_batch_us: dict[int, float]
    best_batch: int
    encode_us: float
    rank_us: float
    search_us: float
    floor_us: float


def run(settings: FloorSettings) -> int:
    """Measure and write the table."""
    with pinned(settings.core):  # before the session's threads start
        meter = FloorMeter(settings.bundle, settings.variant, settings.device)
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

    def __init__(self, bundle: Path, variant: str | None, device: str = "cpu") -> None:
        found = load_bundle(bundle)
        facts = found.manifest
        self.tokenizer = Tokenizer.load(found.folder / "tokenizer.json", facts.max_tokens)
        self.encoder = EncoderModel(open_session(found.encoder(device, variant), device))
        self.ranker = RankerModel(open_session(found.folder / "ranker.onnx", device), facts.dimensions)
        self.catalogue = Catalogue.load(found.folder)
        self._most = facts.max_history
        self._clock = time.process_time if device == "cpu" else time.perf_counter

    def measure(self, asked: Asked, batches: Sequence[int]) -> Floor:
        """The floor of these requests."""
        texts, users = self._work(asked)
        number = len(users) or len(texts)
        self._warm_up(texts, users, max(batches))
        tokens: list[list[int]] = []
        tokenise = self._time(lambda: tokens.extend(sorted(self.tokenizer.encode(texts), key=len)))
        per_text = 1e6 / max(1, len(texts))
        by_batch = {
            size: per_text * (tokenise + self._time(partial(_run, self.encoder, tokens, size))) for size in batches
        }
        best = min(by_batch, key=by_batch.__getitem__)
        ordered = sorted(users, key=lambda user: len(user.kinds))
        rank = min(self._time(partial(_run, self.ranker, ordered, size)) for size in batches) if users else 0.0
        search = self._time(partial(self._search, len(users)))
        shares = (by_batch[best] * len(texts) / number, 1e6 * rank / number, 1e6 * search / number)
        mean = sum(map(len, tokens)) / number
        return Floor(mean, per_text * tokenise, by_batch, best, *shares, sum(shares))

    def _work(self, asked: Asked) -> tuple[list[str], list[UserSequence]]:
        """Every text, and every user with zeros in the place of vectors: values cost nothing."""
        if asked.method == "encode":
            return [text for one in asked.payloads for text in EncodeRequest.FromString(one).texts], []
        requests = [entry for one in asked.payloads for entry in _entries(asked, one)]
        texts = [request.query for request in requests if request.query]
        texts += [event.text for request in requests for event in request.history if event.text]
        zeros = np.zeros(self.catalogue.dimensions, dtype=np.float32)
        users = []
        for request in requests:
            length = min(len(request.history), self._most) + bool(request.query)
            users.append(UserSequence([zeros] * max(1, length), [Kind.ITEM] * max(1, length)))
        return texts, users

    def _search(self, number: int) -> None:
        user = np.ones(self.catalogue.dimensions, dtype=np.float32)
        for _ in range(number):
            self.catalogue.search(user, self.catalogue.mask(Filter(), ()), TOP_K)

    def _warm_up(self, texts: Sequence[str], users: Sequence[UserSequence], size: int) -> None:
        _run(self.encoder, self.tokenizer.encode(texts[:_WARMUP_TEXTS]), size)
        _run(self.ranker, users[:_WARMUP_TEXTS], size)

    def _time(self, work: Callable[[], object]) -> float:
        """Seconds that some work takes."""
        before = self._clock()
        work()
        return self._clock() - before


def _entries(asked: Asked, payload: bytes) -> Sequence[RecommendRequest]:
    if asked.method == "batch":
        return BatchRecommendRequest.FromString(payload).requests
    return [RecommendRequest.FromString(payload)]


def _run(model: EncoderModel | RankerModel, jobs: Sequence[list[int]] | Sequence[UserSequence], size: int) -> None:
    for start in range(0, len(jobs), size):
        model.run(jobs[start : start + size])  # type: ignore[arg-type] # each model with its own jobs
