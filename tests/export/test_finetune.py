"""The stage `finetune` on a tiny BERT: what it writes, the same for the same seed, stopped or not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.text_variants import Texts, TextVariant
from swiftrec.export.errors import ExportError
from swiftrec.export.models.encoder import TextEncoder, load_tokenizer, load_trunk, pad, teacher_checkpoint
from swiftrec.export.models.teacher import Bank, load_teacher
from swiftrec.export.stages import finetune
from swiftrec.export.train.cold_start import FOLDS, Crowd, Placed, Vectors, place_newcomers
from swiftrec.export.train.trainer import Trainer
from swiftrec.export.train.validation import Validation
from tests.export.tiny import StoppedJob, dataset, job


def tune(one: StoppedJob) -> Path:
    """Run the stage as the runner does, into the folder where other stages look for it."""
    out = one.folder("finetune")
    out.mkdir(parents=True)
    finetune.run(one, out)
    return out


def resume_folder(one: StoppedJob) -> Path:
    return one.root / "finetune.resume"


@pytest.mark.parametrize(
    "flags",
    [
        ("--trunk", "frozen"),
        ("--trunk", "1"),
        ("--trunk", "all"),
        ("--trunk", "2", "--lora", "2"),
        ("--trunk", "all", "--moves", "along"),
        (
            "--trunk",
            "1",
            "--moves",
            "along",
            "--pull",
            "1",
            "--augment",
            "2",
            "--adversarial",
            "0.1",
            "--accumulate",
            "3",
            "--ema",
            "0.9",
        ),
        ("--trunk", "2", "--lora", "2", "--optimiser", "sgd", "--adversarial", "0.1", "--mixed-precision"),
        ("--loss", "sampled", "--negatives", "6", "--optimiser", "sgd"),
        ("--loss", "mse", "--ranker", "mlp", "--mixed-precision"),
        ("--teachers", "2", "--ranker", "gru"),
    ],
)
def test_pooled_vectors_are_those_of_the_checkpoint_that_is_left(tmp_path: Path, flags: tuple[str, ...]) -> None:
    if "--lora" in flags:
        pytest.importorskip("peft", reason="the extra 'export' is not installed")
    one = job(tmp_path, *flags)
    out = tune(one)
    texts = Texts.load(one.folder("data"))
    rows = load_tokenizer(teacher_checkpoint(one), 128).encode(texts.all)
    with torch.inference_mode():
        encoder = TextEncoder(load_trunk(out / "checkpoint"), 8).eval()
        wanted = torch.cat([encoder.pool(*pad([row])) for row in rows]).numpy()
    np.testing.assert_allclose(np.load(out / "pooled.npy"), wanted, atol=1e-5)
    assert load_teacher(out).kind == one.settings.ranker
    curve = json.loads((out / "curve.json").read_text())
    assert [row["epoch"] for row in curve] == [1, 2]
    assert all(np.isfinite(row["loss"]) and 0 <= row["validation_ndcg"] <= 1 for row in curve)
    assert any((out / "tensorboard" / "curve").iterdir())


@pytest.mark.parametrize(
    ("trunk", "moved"), [("frozen", set()), ("1", {2}), ("2", {1, 2}), ("3", {0, 1, 2}), ("all", {0, 1, 2})]
)
def test_only_the_layers_move_that_shall(tmp_path: Path, trunk: str, moved: set[int]) -> None:
    one = job(tmp_path, "--trunk", trunk)
    before, after = load_trunk(one.folder("data") / "checkpoint"), load_trunk(tune(one) / "checkpoint")
    found = {
        n
        for n, (a, b) in enumerate(zip(before.encoder.layer, after.encoder.layer, strict=True))
        if any(not torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    }
    same_words = torch.equal(before.embeddings.word_embeddings.weight, after.embeddings.word_embeddings.weight)
    assert (found, same_words) == (moved, trunk != "all")


def spaces(one: StoppedJob) -> tuple[torch.Tensor, torch.Tensor]:
    """Item vectors, and the vectors of the items' titles."""
    out = tune(one)
    teacher, texts = load_teacher(out), Texts.load(one.folder("data"))
    bank = Bank.of(np.load(out / "pooled.npy"), texts)
    with torch.inference_mode():
        return teacher.text_vectors(bank.variants[TextVariant.FULL]) + teacher.residual, teacher.text_vectors(
            bank.variants[TextVariant.TITLE]
        )


def test_texts_move_to_their_items_and_items_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "swiftrec.export.train.encoder_tuning.validate", lambda *_: Validation(0.0, 0.0)
    )  # the last pass is kept
    items, titles = spaces(job(tmp_path / "frozen"))
    same_items, moved = spaces(job(tmp_path / "moved", "--trunk", "2", "--passes", "20"))
    torch.testing.assert_close(items, same_items, atol=1e-5, rtol=1e-4)
    apart, now = (1 - torch.nn.functional.cosine_similarity(items, t).mean().item() for t in (titles, moved))
    assert now < 0.8 * apart


def result(folder: Path) -> bytes:
    return (folder / "teacher.safetensors").read_bytes() + (folder / "checkpoint" / "model.safetensors").read_bytes()


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first, again, other = (
        tune(job(tmp_path / name, "--trunk", "1", "--seed", seed))
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert result(first) == result(again)
    assert result(first) != result(other)


@pytest.mark.parametrize(
    ("moves", "stop_at", "optimiser"),
    [
        ("along", 1, "adamw"),
        ("along", 2, "sgd"),
        ("after", 1, "adamw"),
        ("after", 3, "adamw"),
        ("after", 4, "adamw"),
        ("after", 4, "sgd"),
    ],
)
def test_stopped_training_goes_on_to_the_same_bytes(tmp_path: Path, moves: str, stop_at: int, optimiser: str) -> None:
    flags = (
        "--trunk",
        "1",
        "--moves",
        moves,
        "--optimiser",
        optimiser,
        "--accumulate",
        "2",
        "--epochs",
        "3",
        "--ema",
        "0.5",
        "--patience",
        "3",
        "--adversarial",
        "0.1",
    )
    whole = tune(job(tmp_path / "whole", *flags))
    stopped = job(tmp_path / "stopped", *flags, stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(stopped, tmp_path)
    assert resume_folder(stopped).exists()
    gone_on = tune(job(tmp_path / "stopped", *flags))
    assert result(whole) == result(gone_on)
    assert (whole / "curve.json").read_text() == (gone_on / "curve.json").read_text()
    assert not resume_folder(stopped).exists()


@pytest.mark.parametrize("moves", ["after", "along"])
def test_stopped_run_keeps_vectors_only_where_training_moves_them(tmp_path: Path, moves: str) -> None:
    stopped = job(tmp_path, "--trunk", "1", "--moves", moves, stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(stopped, tmp_path)
    kept = load_file(resume_folder(stopped) / "0" / "tensors.safetensors")
    assert ("bank.pooled" in kept) == (moves == "along")


def test_what_was_stopped_with_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    stopped = job(tmp_path / "a", "--weight-decay", "0.5", stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(stopped, tmp_path)
    assert result(tune(job(tmp_path / "a"))) == result(tune(job(tmp_path / "b")))


def test_half_written_rest_is_not_gone_on_with(tmp_path: Path) -> None:
    stopped = job(tmp_path / "a", stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(stopped, tmp_path)
    tensors = resume_folder(stopped) / "0" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    assert result(tune(job(tmp_path / "a"))) == result(tune(job(tmp_path / "b")))


def test_preset_gives_what_no_flag_gives() -> None:
    plain = ExportSettings(_cli_parse_args=["--preset", "quick"])
    assert (plain.trunk, plain.passes) == ("2", 3)
    given = ExportSettings(_cli_parse_args=["--preset", "quick", "--trunk", "all"])
    assert (given.trunk, given.trunk_layers, given.passes) == ("all", None, 3)


def test_lora_without_layers_that_move_is_refused() -> None:
    with pytest.raises(ValueError, match="lora needs a trunk that moves"):
        ExportSettings(_cli_parse_args=["--preset", "smoke", "--lora", "4"])


@pytest.mark.parametrize(("taken", "trunk"), [(20, "frozen"), (20, "1"), (18, "1")])
def test_items_that_nobody_took_get_what_their_texts_lack(tmp_path: Path, taken: int, trunk: str) -> None:
    one = job(tmp_path, "--trunk", trunk)
    made = dataset()
    replace(made, histories=[h % taken for h in made.histories]).save(one.folder("data"))
    residual = load_teacher(tune(one)).residual.detach()
    is_enough = taken >= 2 * FOLDS
    assert residual[:taken].any(1).all()
    assert residual[taken:].any(1).all() == is_enough
    assert residual[taken:].any() == is_enough  # fewer teach nothing: those items have the vectors of their texts


def asked_of_newcomers(
    one: StoppedJob, monkeypatch: pytest.MonkeyPatch, taken: int = 20
) -> list[tuple[Vectors, Crowd]]:
    """Tune where only the first `taken` items are taken: each time that newcomers are placed, what by."""
    found: list[tuple[Vectors, Crowd]] = []

    def place(texts: Any, items: Vectors, is_taken: Any, crowd: Crowd, seed: int) -> Placed | None:  # noqa: ANN401
        found.append((texts(np.arange(len(is_taken))), crowd))
        return place_newcomers(texts, items, is_taken, crowd, seed)

    monkeypatch.setattr(finetune, "place_newcomers", place)
    made = dataset()
    replace(made, histories=[h % taken for h in made.histories]).save(one.folder("data"))
    tune(one)
    return found


@pytest.mark.parametrize("moves", ["after", "along"])
def test_newcomers_are_mapped_from_what_bert_said_before_it_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: str
) -> None:
    one = job(tmp_path, "--trunk", "1", "--moves", moves)
    [(found, _)] = asked_of_newcomers(one, monkeypatch)
    texts = Texts.load(one.folder("data"))
    rows = load_tokenizer(teacher_checkpoint(one), 128).encode([*texts.variants[TextVariant.FULL]])
    with torch.inference_mode():
        encoder = TextEncoder(load_trunk(one.folder("data") / "checkpoint"), 8).eval()
        plain = torch.nn.functional.normalize(torch.cat([encoder.pool(*pad([row])) for row in rows]), dim=-1)
    tuned = torch.nn.functional.normalize(
        torch.from_numpy(np.load(one.folder("finetune") / "pooled.npy")[: len(rows)]), dim=-1
    )
    np.testing.assert_allclose(found, plain.numpy(), atol=1e-5)
    assert np.abs(found - tuned.numpy()).max() > 1e-3  # control: BERT did move


def test_large_catalogue_asks_fewer_users_about_newcomers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [(_, whole)] = asked_of_newcomers(job(tmp_path / "a"), monkeypatch)
    monkeypatch.setattr("swiftrec.export.train.validation._MIN_USERS", 3)
    monkeypatch.setattr("swiftrec.export.train.validation._MAX_SCORES", 4 * 24)
    [(_, part)] = asked_of_newcomers(job(tmp_path / "b"), monkeypatch)
    assert (len(whole.vectors), len(part.vectors)) == (12, 4)
    assert len(part.masked) == len(part.wanted) == 4
    assert part.wanted.tolist() == whole.wanted[::3].tolist()


@pytest.mark.parametrize(("taken", "times"), [(24, 1), (18, 0)])
def test_nobody_is_asked_where_too_few_items_were_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int, times: int
) -> None:
    """Where all were, items take turns at being new."""
    assert len(asked_of_newcomers(job(tmp_path), monkeypatch, taken)) == times


@pytest.mark.parametrize(("moves", "is_copied"), [("after", False), ("along", True)])
def test_vectors_before_training_are_copied_only_where_training_writes_over_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: str, *, is_copied: bool
) -> None:
    copied: list[bool] = []

    class Looking(Trainer):
        def __init__(self, *args: Any) -> None:  # noqa: ANN401
            super().__init__(*args)
            copied.append(self.plain.data_ptr() != self.pooled.data_ptr())

    monkeypatch.setattr(finetune, "Trainer", Looking)
    tune(job(tmp_path, "--trunk", "1", "--moves", moves))
    assert copied == [is_copied]


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (("--ladder", "bert1,bert2"), "from deep to shallow"),
        (("--ladder", "bert1x4096"), "not narrower than the teacher"),
        (("--trunk", "4"), "--trunk 4: the checkpoint has 3 layers: name at most 3"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    tmp_path: Path, flags: tuple[str, ...], refused: str
) -> None:
    one = job(tmp_path, *flags)
    out = one.folder("finetune")
    out.mkdir(parents=True)
    with pytest.raises(ExportError, match=refused):
        finetune.run(one, out)
    assert not [*out.iterdir()]
