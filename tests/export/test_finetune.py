"""The stage `finetune` on a tiny BERT: what it writes, the same for the same seed, stopped or not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.text_variants import Texts, TextVariant
from swiftrec.export.errors import ExportError
from swiftrec.export.models.encoder import TextEncoder, load_bert, load_tokenizer, pad, teacher_checkpoint
from swiftrec.export.models.teacher import TextFeatures, load_teacher
from swiftrec.export.models.teacher_files import load_item_vectors, load_pooled
from swiftrec.export.stages import finetune
from swiftrec.export.train.cold_start import FOLDS, ColdVectors, ValidationUsers, map_cold_items
from swiftrec.export.train.validation import Validation
from swiftrec.server.arrays import Vectors
from tests.export.tiny import StoppedJob, dataset, job, run_stages


def tune(tiny_job: StoppedJob) -> Path:
    """Run the stage; its folder."""
    return run_stages(tiny_job, "finetune")


def resume_folder(tiny_job: StoppedJob) -> Path:
    return tiny_job.root / "finetune.resume"


@pytest.mark.parametrize(
    "flags",
    [
        ("--backbone-layers", "frozen"),
        ("--backbone-layers", "1"),
        ("--backbone-layers", "all"),
        ("--backbone-layers", "2", "--lora", "2"),
        ("--backbone-layers", "1", "--augment", "2", "--adversarial", "0.1", "--accumulate", "3"),
        ("--backbone-layers", "2", "--lora", "2", "--optimiser", "sgd", "--adversarial", "0.1", "--mixed-precision"),
        ("--loss", "sampled", "--negatives", "6", "--optimiser", "sgd"),
        ("--loss", "mse", "--ranker", "mlp", "--mixed-precision"),
        ("--teachers", "2", "--ranker", "gru"),
    ],
)
def test_pooled_vectors_are_those_of_the_written_checkpoint(tmp_path: Path, flags: tuple[str, ...]) -> None:
    if "--lora" in flags:
        pytest.importorskip("peft", reason="the extra 'export' is not installed")
    tiny_job = job(tmp_path, *flags)
    output = tune(tiny_job)
    texts = Texts.load(tiny_job.folder("data"))
    rows = load_tokenizer(teacher_checkpoint(tiny_job), 128).encode(texts.all)
    with torch.inference_mode():
        encoder = TextEncoder(load_bert(output / "checkpoint"), 8).eval()
        expected = torch.cat([encoder.pool(*pad([row])) for row in rows]).numpy()
    np.testing.assert_allclose(np.load(output / "pooled.npy"), expected, atol=1e-5)
    assert load_teacher(output).kind == tiny_job.settings.ranker
    curve = json.loads((output / "curve.json").read_text())
    assert [row["epoch"] for row in curve] == [1, 2]
    assert all(np.isfinite(row["loss"]) and 0 <= row["validation_ndcg"] <= 1 for row in curve)
    assert any((output / "tensorboard" / "curve").iterdir())


@pytest.mark.parametrize(
    ("layers", "moved"), [("frozen", set()), ("1", {2}), ("2", {1, 2}), ("3", {0, 1, 2}), ("all", {0, 1, 2})]
)
def test_only_the_last_layers_are_fine_tuned(tmp_path: Path, layers: str, moved: set[int]) -> None:
    tiny_job = job(tmp_path, "--backbone-layers", layers)
    before, after = load_bert(tiny_job.folder("data") / "checkpoint"), load_bert(tune(tiny_job) / "checkpoint")
    result = {
        n
        for n, (a, b) in enumerate(zip(before.encoder.layer, after.encoder.layer, strict=True))
        if any(not torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    }
    same_words = torch.equal(before.embeddings.word_embeddings.weight, after.embeddings.word_embeddings.weight)
    assert (result, same_words) == (moved, layers != "all")


def spaces(tiny_job: StoppedJob) -> tuple[torch.Tensor, torch.Tensor]:
    """Item vectors, and the vectors of the items' titles."""
    output = tune(tiny_job)
    teacher, texts = load_teacher(output), Texts.load(tiny_job.folder("data"))
    features = TextFeatures.of(load_pooled(output), texts)
    with torch.inference_mode():
        titles = teacher.text_vectors(features.variants[TextVariant.TITLE])
        return teacher.text_vectors(features.variants[TextVariant.FULL]) + teacher.residual, titles


def test_tuning_moves_text_vectors_towards_their_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "swiftrec.export.train.encoder_tuning.validate", lambda *_: Validation(0.0, 0.0)
    )  # the last pass is kept
    items, titles = spaces(job(tmp_path / "frozen"))
    same_items, moved = spaces(job(tmp_path / "moved", "--backbone-layers", "2", "--passes", "20"))
    torch.testing.assert_close(items, same_items, atol=1e-5, rtol=1e-4)
    distance, now = (1 - torch.nn.functional.cosine_similarity(items, t).mean().item() for t in (titles, moved))
    assert now < 0.8 * distance


def result(folder: Path) -> bytes:
    return (folder / "teacher.safetensors").read_bytes() + (folder / "checkpoint" / "model.safetensors").read_bytes()


def test_training_is_deterministic_for_a_seed(tmp_path: Path) -> None:
    first, again, other = (
        tune(job(tmp_path / name, "--backbone-layers", "1", "--seed", seed))
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert result(first) == result(again)
    assert result(first) != result(other)


@pytest.mark.parametrize(
    ("stop_at", "optimiser", "loss"),
    [
        (1, "adamw", "auto"),
        (2, "sgd", "auto"),
        (2, "adamw", "sampled"),
        (3, "adamw", "auto"),
        (4, "adamw", "auto"),
        (4, "sgd", "auto"),
    ],
)
def test_interrupted_training_resumes_with_the_same_result(
    tmp_path: Path, stop_at: int, optimiser: str, loss: str
) -> None:
    flags = (
        "--backbone-layers",
        "1",
        "--loss",
        loss,
        "--negatives",
        "6",
        "--optimiser",
        optimiser,
        "--accumulate",
        "2",
        "--epochs",
        "3",
        "--patience",
        "3",
        "--adversarial",
        "0.1",
    )
    uninterrupted = tune(job(tmp_path / "whole", *flags))
    stopped = job(tmp_path / "stopped", *flags, stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(stopped, tmp_path)
    assert resume_folder(stopped).exists()
    resumed = tune(job(tmp_path / "stopped", *flags))
    assert result(uninterrupted) == result(resumed)
    assert (uninterrupted / "curve.json").read_text() == (resumed / "curve.json").read_text()
    assert not resume_folder(stopped).exists()


def test_saved_state_of_other_settings_is_ignored(tmp_path: Path) -> None:
    stopped = job(tmp_path / "a", "--weight-decay", "0.5", stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(stopped, tmp_path)
    assert result(tune(job(tmp_path / "a"))) == result(tune(job(tmp_path / "b")))


def test_damaged_state_of_an_interrupted_training_is_ignored(tmp_path: Path) -> None:
    stopped = job(tmp_path / "a", stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(stopped, tmp_path)
    state = resume_folder(stopped) / "0.pt"
    state.write_bytes(state.read_bytes()[:1000])
    assert result(tune(job(tmp_path / "a"))) == result(tune(job(tmp_path / "b")))


def test_preset_sets_fields_without_a_flag() -> None:
    plain = ExportSettings(_cli_parse_args=["--preset", "quick"])
    assert (plain.backbone_layers, plain.passes) == ("2", 3)
    given = ExportSettings(_cli_parse_args=["--preset", "quick", "--backbone-layers", "all"])
    assert (given.backbone_layers, given.tuned_layers, given.passes) == ("all", None, 3)


def test_lora_is_refused_when_no_layer_is_trained() -> None:
    with pytest.raises(ValueError, match="lora needs layers to fine-tune"):
        ExportSettings(_cli_parse_args=["--preset", "smoke", "--lora", "4"])


@pytest.mark.parametrize(("taken", "layers"), [(20, "frozen"), (20, "1"), (18, "1")])
def test_items_without_interactions_get_residuals_from_the_map(tmp_path: Path, taken: int, layers: str) -> None:
    tiny_job = job(tmp_path, "--backbone-layers", layers)
    data = dataset()
    replace(data, histories=[h % taken for h in data.histories]).save(tiny_job.folder("data"))
    residual = load_teacher(tune(tiny_job)).residual.detach()
    is_enough = taken >= 2 * FOLDS
    assert residual[:taken].any(1).all()
    assert residual[taken:].any(1).all() == is_enough
    assert residual[taken:].any() == is_enough  # fewer teach nothing: those items have the vectors of their texts


def mapped_by(
    tiny_job: StoppedJob, monkeypatch: pytest.MonkeyPatch, taken: int = 20
) -> list[tuple[Vectors, ValidationUsers]]:
    """Tune where only the first `taken` items are taken: each time that cold items are mapped, what by."""
    result: list[tuple[Vectors, ValidationUsers]] = []

    def record(texts: Any, items: Vectors, has_events: Any, users: ValidationUsers, seed: int) -> ColdVectors | None:  # noqa: ANN401
        result.append((texts(np.arange(len(has_events))), users))
        return map_cold_items(texts, items, has_events, users, seed)

    monkeypatch.setattr("swiftrec.export.train.cold_residuals.map_cold_items", record)
    data = dataset()
    replace(data, histories=[h % taken for h in data.histories]).save(tiny_job.folder("data"))
    tune(tiny_job)
    return result


def test_cold_items_are_mapped_from_the_vectors_of_the_untuned_bert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_job = job(tmp_path, "--backbone-layers", "1")
    [(result, _)] = mapped_by(tiny_job, monkeypatch)
    texts = Texts.load(tiny_job.folder("data"))
    rows = load_tokenizer(teacher_checkpoint(tiny_job), 128).encode([*texts.variants[TextVariant.FULL]])
    with torch.inference_mode():
        encoder = TextEncoder(load_bert(tiny_job.folder("data") / "checkpoint"), 8).eval()
        plain = torch.nn.functional.normalize(torch.cat([encoder.pool(*pad([row])) for row in rows]), dim=-1)
    tuned = torch.nn.functional.normalize(
        torch.from_numpy(np.load(tiny_job.folder("finetune") / "pooled.npy")[: len(rows)]), dim=-1
    )
    np.testing.assert_allclose(result, plain.numpy(), atol=1e-5)
    assert np.abs(result - tuned.numpy()).max() > 1e-3  # control: BERT did move


def test_large_catalogue_samples_the_validation_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [(_, whole)] = mapped_by(job(tmp_path / "a"), monkeypatch)
    monkeypatch.setattr("swiftrec.export.train.validation._MIN_USERS", 3)
    monkeypatch.setattr("swiftrec.export.train.validation._MAX_SCORES", 4 * 24)
    [(_, part)] = mapped_by(job(tmp_path / "b"), monkeypatch)
    assert (len(whole.vectors), len(part.vectors)) == (12, 4)
    assert len(part.masked) == len(part.targets) == 4
    assert part.targets.tolist() == whole.targets[::3].tolist()


@pytest.mark.parametrize(("taken", "times"), [(24, 1), (18, 0)])
def test_cold_items_are_not_mapped_when_items_with_interactions_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int, times: int
) -> None:
    """Where all were, items take turns at being new."""
    assert len(mapped_by(job(tmp_path), monkeypatch, taken)) == times


def test_item_vectors_are_written_for_every_item(tmp_path: Path) -> None:
    """Those of the trained teacher, of items without interactions too."""
    tiny_job = job(tmp_path, "--backbone-layers", "1")
    replace(dataset(), histories=[h % 20 for h in dataset().histories]).save(tiny_job.folder("data"))
    output = tune(tiny_job)
    teacher, items = load_teacher(output), load_item_vectors(output)
    with torch.inference_mode():
        computed = teacher.text_vectors(load_pooled(output)[: len(items)]) + teacher.residual
    np.testing.assert_allclose(items, computed.numpy(), atol=1e-6)
    assert np.abs(items[20:]).max() > 0


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (("--students", "bert1,bert2"), "from deep to shallow"),
        (("--students", "bert1x4096"), "not narrower than the teacher"),
        (("--backbone-layers", "4"), "--backbone-layers 4: the checkpoint has 3 layers: name at most 3"),
    ],
)
def test_impossible_settings_are_refused_before_training(tmp_path: Path, flags: tuple[str, ...], refused: str) -> None:
    tiny_job = job(tmp_path, *flags)
    output = tiny_job.folder("finetune")
    output.mkdir(parents=True)
    with pytest.raises(ExportError, match=refused):
        finetune.run(tiny_job, output)
    assert not [*output.iterdir()]
