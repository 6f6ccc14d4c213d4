"""The bank, the rankers, the rates, the adversary and early stopping, each alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from swiftrec.export.models.backbone import MovingTrunk
from swiftrec.export.models.encoder import load_tokenizer
from swiftrec.export.models.ranker import LastUser, Ranker, Served
from swiftrec.export.models.rankers import RANKERS, make_ranker
from swiftrec.export.train.curve import Curve
from swiftrec.export.train.epochs import Epochs
from swiftrec.export.train.fgm import against_them
from swiftrec.export.train.memory_bank import MovingBank
from swiftrec.export.train.optimise import Average, Rate
from swiftrec.export.train.resume import Facts, Resume
from swiftrec.export.train.validation import Validation
from swiftrec.server.models.session import open_session
from tests.export.tiny import write_checkpoint

_TEXTS = ["river 1", "night 2. war", "garden", "engine and letter 5. comedy", "winter", "island 7"]


@pytest.fixture
def trunk(tmp_path: Path) -> MovingTrunk:
    write_checkpoint(tmp_path / "checkpoint")
    return MovingTrunk(tmp_path / "checkpoint", load_tokenizer(tmp_path / "checkpoint", 32).encode(_TEXTS), layers=2)


def gradients(trunk: MovingTrunk) -> list[Tensor]:
    return [p.grad.clone() for p in trunk.parameters() if p.grad is not None]


def test_gradient_of_encoded_texts_is_the_one_that_backpropagation_gives(trunk: MovingTrunk) -> None:
    bank, upstream = MovingBank(trunk, per_step=4), torch.randn(len(_TEXTS), 16)
    encoded = bank.encode(np.array([1, 3, 3]), np.random.default_rng(0))
    encoded.backward(upstream)
    found = gradients(trunk)
    trunk.zero_grad()
    (trunk(encoded.texts) * upstream[encoded.texts]).sum().backward()
    assert {1, 3} <= set(encoded.texts)
    for one, wanted in zip(found, gradients(trunk), strict=True):
        torch.testing.assert_close(one, wanted, atol=1e-6, rtol=1e-4)


def test_every_text_is_encoded_again_within_a_round(trunk: MovingTrunk) -> None:
    bank, rng = MovingBank(trunk, per_step=4), np.random.default_rng(0)
    for _ in range(4 * len(_TEXTS) // 4):
        bank.encode(np.array([0, 1, 2]), rng)  # batches that never read the others
    assert bank.encoded.min() > 0


def test_bank_has_the_new_vectors_of_texts_whose_turn_it_was(trunk: MovingTrunk) -> None:
    bank = MovingBank(trunk, per_step=2)
    with torch.no_grad():
        dict(trunk.named_parameters())["bert.encoder.layer.2.output.LayerNorm.bias"].add_(torch.randn(16))
    old = bank.pooled.clone()
    encoded = bank.encode(np.array([4]), np.random.default_rng(0))
    changed = (bank.pooled - old).abs().sum(1) > 1e-6
    assert sorted(changed.nonzero().flatten().tolist()) == sorted(encoded.texts)
    bank.refresh()
    torch.testing.assert_close(bank.pooled, trunk.all())


@pytest.mark.parametrize("kind", sorted(RANKERS))
def test_ranker_reads_neither_the_future_nor_padding(kind: str) -> None:
    torch.manual_seed(0)
    ranker = make_ranker(kind, 8, 6).eval()
    vectors, kinds, mask = torch.randn(1, 4, 8), torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4).long()
    with torch.no_grad():
        whole = ranker(vectors, kinds, mask)
        padded = ranker(
            torch.cat([vectors[:, :3], 9 * torch.randn(1, 3, 8)], dim=1),
            torch.zeros(1, 6, dtype=torch.int64),
            torch.tensor([[1, 1, 1, 0, 0, 0]]),
        )
        other_past = ranker(torch.cat([-vectors[:, :1], vectors[:, 1:]], dim=1), kinds, mask)
    torch.testing.assert_close(whole[:, :3], padded[:, :3], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(whole[:, 3], other_past[:, 3], atol=1e-4)


@pytest.mark.parametrize("kind", sorted(RANKERS))
def test_ranker_is_the_same_in_onnx_runtime(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ranker = make_ranker(kind, 8, 6).eval()
    served, last = Served(ranker).eval(), LastUser(ranker).eval()
    names = ("vectors", "kinds", "mask")
    torch.onnx.export(
        served,
        (torch.randn(2, 3, 8), torch.zeros(2, 3).long(), torch.ones(2, 3).long()),
        tmp_path / "ranker.onnx",
        input_names=list(names),
        output_names=["user"],
        dynamic_axes={name: {0: "batch", 1: "time"} for name in names} | {"user": {0: "batch"}},
        dynamo=False,
    )
    feeds = (torch.randn(3, 5, 8), torch.zeros(3, 5).long(), torch.tensor([[1] * 5, [1] * 2 + [0] * 3, [1] + [0] * 4]))
    with torch.no_grad():
        wanted = last(*feeds).numpy()
    found = open_session(tmp_path / "ranker.onnx").run({n: f.numpy() for n, f in zip(names, feeds, strict=True)})
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_served_ranker_leaves_out_what_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("all positions of the last layer")

    ranker = Ranker(8, 6)
    monkeypatch.setattr(ranker.blocks[-1], "forward", fail)
    feeds = torch.randn(2, 4, 8), torch.zeros(2, 4).long(), torch.ones(2, 4).long()
    assert Served(ranker)(*feeds).shape == (2, 8)
    with pytest.raises(AssertionError, match="all positions"):
        LastUser(ranker)(*feeds)


def test_rate_rises_then_falls_to_nothing() -> None:
    optimiser = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 4.0}])
    rate = Rate(optimiser, steps=100, warmup=0.1)
    shares = [rate.share(n) for n in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == pytest.approx(1.0)
    assert shares.index(max(shares)) in range(8, 12)
    assert shares[-1] < 0.01
    rate.set(0)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.4)


def test_average_follows_slowly() -> None:
    average = Average({"a": torch.zeros(2)}, decay=0.75)
    average.update([("a", torch.full((2,), 4.0))])
    assert average.weights["a"].tolist() == [1.0, 1.0]


def test_adversary_makes_it_worse_by_no_more_than_its_strength() -> None:
    torch.manual_seed(0)
    rows, gradient = torch.randn(5, 8), torch.randn(5, 8)
    gradient[2] = 0
    worse = against_them(rows, gradient, 0.1)
    assert ((worse - rows) * gradient).sum(1)[[0, 1, 3, 4]].min() > 0
    torch.testing.assert_close((worse - rows).norm(dim=1)[0], 0.1 * rows.norm(dim=1)[0])
    assert torch.equal(worse[2], rows[2])


class _Scripted:
    """A trainer whose validation follows a script; its weights are the number of its epoch."""

    def __init__(self, script: list[float]) -> None:
        self.step, self._script = 0, script
        self.put_back: dict[str, Tensor] = {}

    def epoch(self) -> float:
        self.step += 1
        return 1.0

    def validate(self) -> Validation:
        return Validation(self._script[self.step - 1], self._script[self.step - 1])

    def answer(self) -> dict[str, Tensor]:
        return {"epoch": torch.tensor([self.step])}

    def put(self, weights: dict[str, Tensor]) -> None:
        self.put_back = weights

    def finish(self) -> None: ...

    def restore(self, tensors: dict[str, Tensor], facts: Facts) -> None: ...

    def state(self) -> tuple[dict[str, Tensor], Facts]:
        return self.answer(), {}


@pytest.mark.parametrize(
    ("patience", "epochs", "kept"),
    [(2, 4, 2), (3, 6, 6), (0, 7, 6)],
)
def test_best_epoch_is_kept_whenever_training_stops(tmp_path: Path, patience: int, epochs: int, kept: int) -> None:
    trainer = _Scripted([0.1, 0.3, 0.2, 0.25, 0.2, 0.4, 0.1] if patience != 3 else [0.1, 0.3, 0.2, 0.25, 0.5, 0.6])
    steps: list[None] = []
    epochs_of = Epochs(trainer, Resume(tmp_path / "resume", "key"), Curve(tmp_path, "curve"), patience)
    epochs_of.to(6 if patience == 3 else 7, lambda: steps.append(None))
    assert (len(steps), trainer.put_back["epoch"].item()) == (epochs, kept)


def test_last_of_equal_epochs_is_kept_and_does_not_count_as_better(tmp_path: Path) -> None:
    trainer, steps = _Scripted([0.1, 0.3, 0.3, 0.3, 0.2, 0.4]), list[None]()
    Epochs(trainer, Resume(tmp_path / "resume", "key"), Curve(tmp_path, "curve"), 3).to(6, lambda: steps.append(None))
    assert (len(steps), trainer.put_back["epoch"].item()) == (5, 4)


def test_resume_is_refused_for_another_key(tmp_path: Path) -> None:
    Resume(tmp_path / "r", "a").save({"x": torch.ones(2)}, {"epoch": 3})
    assert Resume(tmp_path / "r", "b").load() is None
    found = Resume(tmp_path / "r", "a").load()
    assert found is not None
    assert found[1] == {"epoch": 3}
