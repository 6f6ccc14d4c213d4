"""The training loop with a model of one weight, and the validation of its epochs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from swiftrec.export.data.split import Cases, Split
from swiftrec.export.models.ranker import LastUser
from swiftrec.export.models.teacher import Teacher, TextFeatures
from swiftrec.export.train.curve import Curve
from swiftrec.export.train.fit import ProgressBar, Resume, fit
from swiftrec.export.train.optimisers import ParameterGroup, Schedule, make_optimisers
from swiftrec.export.train.validation import Validation, validate


class Scripted:
    """Its validation follows a script; without one it does not validate. Each batch has a random gradient."""

    def __init__(self, script: list[float] | None = None, batches: int = 2, rate: float = 1.0) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.module.weight)
        self.groups = [ParameterGroup([self.module.weight], rate)]
        self.rng = np.random.default_rng(3)
        self.epochs, self.weights = 0, list[float]()
        self._script, self._batches = script, batches

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Random gradients."""
        self.epochs += 1
        assert epoch >= self.epochs - 1
        for _ in range(self._batches):
            yield torch.tensor([[self.rng.random() + float(torch.rand(1))]], dtype=torch.float32)

    def backward(self, batch: Tensor, share: float) -> float:
        """The gradient is the batch."""
        ((self.module.weight * batch).sum() * share).backward()  # type: ignore[no-untyped-call]
        return float(batch)

    def validate(self) -> Validation | None:
        """The next figure of the script."""
        self.weights.append(self.module.weight.item())
        if self._script is None:
            return None
        return Validation(*[self._script[len(self.weights) - 1]] * 2)


def bar_of(steps: list[int], stop_at: int = 0) -> ProgressBar:
    """A bar that notes its total at each step, and interrupts at one of them."""

    def step(total: int) -> None:
        steps.append(total)
        if len(steps) == stop_at:
            raise KeyboardInterrupt

    return lambda total: nullcontext(partial(step, total))


@pytest.mark.parametrize(
    ("patience", "script", "epochs", "kept"),
    [
        (2, [0.1, 0.3, 0.2, 0.25, 0.2, 0.4, 0.1], 4, 2),
        (3, [0.1, 0.3, 0.2, 0.25, 0.5, 0.6], 6, 6),
        (0, [0.1, 0.3, 0.2, 0.25, 0.2, 0.4, 0.1], 7, 6),
        (3, [0.1, 0.3, 0.3, 0.3, 0.2, 0.4], 5, 4),  # of equal epochs the last one is kept, and counts as no better
    ],
)
def test_best_epoch_is_kept_whenever_training_stops(
    tmp_path: Path, patience: int, script: list[float], epochs: int, kept: int
) -> None:
    trained, steps = Scripted(script), list[int]()
    with Curve(tmp_path, "curve") as curve:
        losses = fit(trained, Schedule(len(script), 2, patience=patience), bar=bar_of(steps), curve=curve)
    assert len(losses) == len(steps) == len(curve.rows) == epochs
    assert trained.module.weight.item() == trained.weights[kept - 1]
    assert len({*trained.weights}) == epochs  # control: every epoch changes the weight


def test_last_epoch_is_kept_without_validation() -> None:
    trained = Scripted()
    assert len(fit(trained, Schedule(3, 2))) == 3
    assert trained.module.weight.item() == trained.weights[-1]


def test_learning_rate_rises_to_its_peak_and_falls_to_nearly_0(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    plain = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW) -> None:
        rates.append(self.param_groups[0]["lr"])
        plain(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    fit(Scripted(batches=50, rate=4.0), Schedule(4, 50, accumulate=2, warmup=0.1))
    assert len(rates) == 100
    assert max(rates) == pytest.approx(4.0, rel=0.01)
    assert rates.index(max(rates)) in range(8, 12)
    assert rates[0] < 0.5
    assert rates[-1] < 0.01


@pytest.mark.parametrize(
    ("epochs", "batches", "warmup"), [(1, 1, 0), (1, 1, 0.5), (3, 3, 0.1), (1, 1, 0.99), (9, 1, 0.1)]
)
def test_schedule_of_few_steps_changes_the_weights_in_every_epoch(epochs: int, batches: int, warmup: float) -> None:
    trained = Scripted(batches=batches)
    fit(trained, Schedule(epochs, batches, warmup=warmup))
    assert len({0.0, *trained.weights}) == 1 + epochs


def test_epoch_ends_with_a_step_when_fewer_batches_than_accumulate_are_left() -> None:
    trained = Scripted([0.1, 0.2], batches=5)
    curve_rows: list[int] = []

    class Rows(Curve):
        def __init__(self) -> None:
            self.rows = []

        def add(self, row: object) -> None:
            curve_rows.append(row.step)  # type: ignore[attr-defined]

    fit(trained, Schedule(2, 5, accumulate=4), curve=Rows())
    assert curve_rows == [2, 4]


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_sparse_groups_have_an_optimiser_that_updates_only_their_rows(kind: str) -> None:
    table, dense = nn.Embedding(4, 2, sparse=True), nn.Linear(2, 1)
    before = table.weight.detach().clone()
    groups = [ParameterGroup([*dense.parameters()], 0.1, 0.5), ParameterGroup([table.weight], 0.1, is_sparse=True)]
    optimisers = make_optimisers(groups, kind)  # type: ignore[arg-type]
    dense(table(torch.tensor([1, 3]))).sum().backward()
    for optimiser in optimisers:
        optimiser.step()
    assert [type(optimiser).__name__ for optimiser in optimisers] == [
        {"adamw": "AdamW", "sgd": "SGD"}[kind],
        "SparseAdam",
    ]
    assert (table.weight != before).any(1).tolist() == [False, True, False, True]
    assert make_optimisers([ParameterGroup([], 0.1)], "adamw") == []


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
@pytest.mark.parametrize("script", [None, [0.1, 0.4, 0.2, 0.3]])
def test_interrupted_training_resumes_with_the_same_weights(
    tmp_path: Path, stop_at: int, script: list[float] | None
) -> None:
    schedule, resume = Schedule(4, 2), Resume(tmp_path / "state.pt", "key")
    whole, stopped = Scripted(script), Scripted(script)
    torch.manual_seed(1)
    losses = fit(whole, schedule)
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, schedule, bar=bar_of([], stop_at), resume=resume)
    steps, rest = list[int](), Scripted(script[stop_at:] if script else None)
    torch.manual_seed(2)
    assert fit(rest, schedule, bar=bar_of(steps), resume=resume) == losses
    assert rest.epochs == 4 - stop_at
    assert torch.equal(rest.module.weight, whole.module.weight)
    assert len(steps) == (0 if stop_at == 4 else 4)  # no bar for a training that is finished


def test_state_is_saved_as_often_as_the_schedule_says_and_at_the_end(tmp_path: Path) -> None:
    resume = Resume(tmp_path / "state.pt", "key")
    with pytest.raises(KeyboardInterrupt):
        fit(Scripted(), Schedule(4, 2, save_every=4), bar=bar_of([], 3), resume=resume)
    assert resume.load() is None
    fit(Scripted(), Schedule(4, 2, save_every=4), resume=resume)
    state = resume.load()
    assert state is not None
    assert len(state["losses"]) == 4
    assert "optimisers" not in state  # a finished training needs none


def test_progress_counts_batches_when_the_schedule_says_so() -> None:
    steps: list[int] = []
    fit(Scripted(batches=3), Schedule(2, 3, shows_batches=True), bar=bar_of(steps))
    assert steps == [6] * 6


def test_state_of_another_key_or_damaged_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.pt"
    Resume(path, "a").save({"x": torch.ones(2), "number": 3})
    assert Resume(path, "b").load() is None
    state = Resume(path, "a").load()
    assert state is not None
    assert (state["x"].tolist(), state["number"]) == ([1.0, 1.0], 3)
    path.write_bytes(path.read_bytes()[:-100])
    assert Resume(path, "a").load() is None
    path.write_bytes(b"no state")
    assert Resume(path, "a").load() is None
    assert Resume(tmp_path / "none.pt", "a").load() is None


def test_earlier_state_is_kept_when_killed_during_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resume = Resume(tmp_path / "state.pt", "key")
    resume.save({"epoch": 1})

    def killed(_state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", killed)
        with pytest.raises(SystemExit):
            resume.save({"epoch": 2})
    assert resume.load() == {"epoch": 1}


def test_validation_samples_every_nth_of_many_users(monkeypatch: pytest.MonkeyPatch) -> None:
    users: list[int] = []

    class Counting(LastUser):
        def forward(self, *args: torch.Tensor) -> torch.Tensor:
            users.append(len(args[0]))
            result: torch.Tensor = super().forward(*args)
            return result

    monkeypatch.setattr("swiftrec.export.train.validation.LastUser", Counting)
    monkeypatch.setattr("swiftrec.export.train.validation._MIN_USERS", 5)
    monkeypatch.setattr("swiftrec.export.train.validation._MAX_SCORES", 60)
    histories, none = [np.arange(3)] * 20, Cases(np.empty(0, np.int64), [], np.empty(0, np.int64))
    split = Split(histories, np.full(20, 4), none, none)
    teacher, rows = Teacher(8, 4, 6, 5), torch.randn(2, 6, 8)
    validate(teacher, TextFeatures(rows, rows[0]), split, 4)
    assert sum(users) == 2 * 10  # ids and text of every second user: 60 scores are 10 users of 6 items
    monkeypatch.setattr("swiftrec.export.train.validation._MAX_SCORES", 1_000)
    users.clear()
    validate(teacher, TextFeatures(rows, rows[0]), split, 4)
    assert sum(users) == 2 * 20
