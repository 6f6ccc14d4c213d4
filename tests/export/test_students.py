"""The students: what each computes, the weights that it starts with, and that training brings it to the teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from swiftrec.export import config
from swiftrec.export.config import ExportSettings
from swiftrec.export.data.queries import Phrase
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.errors import ExportError
from swiftrec.export.job import Job
from swiftrec.export.models.encoder import TextEncoder, load_bert, load_tokenizer, pad
from swiftrec.export.models.sentence_space import save_sentences
from swiftrec.export.models.static import StaticEncoder, fit_pieces
from swiftrec.export.models.students import StudentShape, drop_layers, load_student, parse_students, spread
from swiftrec.export.models.teacher import Teacher, save_teacher
from swiftrec.export.models.teacher_files import save_item_vectors
from swiftrec.export.stages import distil
from swiftrec.export.train.distillation_data import DistillationData
from swiftrec.export.train.width_pruning import prune_width
from tests.export import tiny
from tests.export.checkpoints import bert, save_bert

_COLOURS, _THINGS = ("red", "green", "blue", "black"), ("lamp", "chair", "table", "clock", "stone")


_WORDS = ["good", "a", *_COLOURS, *_THINGS]


_WORDS += [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]


_TITLES = [f"{colour} {thing}" for colour in _COLOURS for thing in _THINGS]


_NO_TOKENIZER: Any = None


_NAMES = ("bert3", "bert2x16", "bert1", "static")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """What the stages before this one leave: texts, a tiny teacher and its pooled vectors."""
    torch.manual_seed(1)
    job = Job(
        ExportSettings(
            artifacts=tmp_path_factory.mktemp("artifacts"), preset="smoke", allow_lossy=True, _cli_parse_args=[]
        )
    )
    save_bert(job.folder("data") / "checkpoint", _WORDS, layers=4)
    variants = [_TITLES, _TITLES, [title.split()[0] for title in _TITLES], _TITLES]
    texts = Texts(variants, [Phrase(colour, [n]) for n, colour in enumerate(_COLOURS)])
    texts.save(job.folder("data"))
    encoder = TextEncoder(load_bert(job.folder("data") / "checkpoint"), 1).eval()
    rows = load_tokenizer(job.folder("data") / "checkpoint", 128).encode(texts.all)
    with torch.inference_mode():
        pooled = encoder.pool(*pad(rows)).numpy()
    job.folder("finetune").mkdir()
    np.save(job.folder("finetune") / "pooled.npy", pooled)
    teacher = Teacher(32, 32, len(_TITLES), 17)
    save_teacher(teacher, job.folder("finetune"))
    save_item_vectors(teacher.all_item_vectors(torch.from_numpy(pooled[: len(_TITLES)])), job.folder("finetune"))
    save_sentences(torch.from_numpy(pooled), job.folder("finetune"), 0)
    return job


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smoke preset with every kind of student."""
    preset = replace(config.PRESETS["smoke"], students=_NAMES, distil_epochs=2, static_epochs=4)
    monkeypatch.setitem(config.PRESETS, "smoke", preset)


def run(job: Job, output: Path) -> dict[str, nn.Module]:
    output.mkdir()
    distil.run(job, output)
    return {name: load_student(output / name) for name in json.loads((output / "students.json").read_text())}


def vectors(student: nn.Module, rows: list[list[int]]) -> torch.Tensor:
    with torch.inference_mode():
        output: torch.Tensor = student(*pad(rows))
    return output


def test_students_give_unit_vectors_that_do_not_depend_on_the_batch(job: Job, tmp_path: Path, plan: None) -> None:
    rows = load_tokenizer(job.folder("data") / "checkpoint", 128).encode(["red", "a good red lamp", "日本 ☃", ""])
    students = run(job, tmp_path / "distil")
    assert tuple(students) == _NAMES
    for student in students.values():
        assert not student.training
        together = vectors(student, rows)
        alone = torch.cat([vectors(student, [row]) for row in rows])
        assert (together.dtype, together.shape) == (torch.float32, (4, 64))
        for half in (together[:, :32], together[:, 32:]):
            torch.testing.assert_close(half.norm(dim=1), torch.ones(4))
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_records_say_what_each_student_is(job: Job, tmp_path: Path, plan: None) -> None:
    run(job, tmp_path / "distil")
    records = [json.loads((tmp_path / "distil" / n / "student.json").read_text()) for n in _NAMES]
    assert [(r["kind"], r["layers"], r["hidden"]) for r in records] == [
        ("bert", [0, 1, 3], 32),
        ("bert", [0, 3], 16),
        ("bert", [0], 32),
        ("static", [], 64),
    ]
    assert {(r["dimensions"], r["sentence_dimensions"]) for r in records} == {(32, 32)}
    assert [len(r["losses"]) for r in records] == [2, 2, 2, 4]


def test_students_are_deterministic_for_a_seed(job: Job, tmp_path: Path, plan: None) -> None:
    first, again = run(job, tmp_path / "first"), run(job, tmp_path / "again")
    other = run(Job(job.settings.model_copy(update={"seed": 8})), tmp_path / "other")
    for name, student in first.items():
        for key, value in student.state_dict().items():
            assert torch.equal(value, again[name].state_dict()[key]), (name, key)
        assert not torch.equal(vectors(student, [[2, 5, 3]]), vectors(other[name], [[2, 5, 3]]))


class Stopped(Job):
    """A job that is interrupted when a student of that name would be trained; it notes which were."""

    def __init__(self, settings: ExportSettings, stop_at: str = "") -> None:
        super().__init__(settings)
        self.stop_at, self.trained = stop_at, list[str]()

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar of the stage; those of students say their names."""
        self.trained.append(label.removeprefix("distil "))
        if self.trained[-1] == self.stop_at:
            raise KeyboardInterrupt
        yield lambda: None


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop(job: Job, output: Path, name: str) -> None:
    """Run the stage up to the training of the student of that name."""
    stopped = Stopped(job.settings, stop_at=name)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, output)
    assert stopped.trained == [*_NAMES[: _NAMES.index(name)], name]


@pytest.mark.parametrize("name", _NAMES[1:3])
def test_stopped_stage_resumes_after_the_finished_students(job: Job, tmp_path: Path, plan: None, name: str) -> None:
    run(job, tmp_path / "whole")
    stop(job, tmp_path / "stopped", name)
    again = Stopped(job.settings)
    run(again, tmp_path / "again")
    assert again.trained == [*_NAMES[_NAMES.index(name) : -1], "word pieces", "static"]
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert not job.folder("distil.resume").exists()


def test_students_of_other_settings_are_not_resumed(job: Job, tmp_path: Path, plan: None) -> None:
    stop(job, tmp_path / "stopped", "bert2x16")
    other = Job(job.settings.model_copy(update={"seed": 8}))
    run(other, tmp_path / "other")
    stop(job, tmp_path / "again", "bert3")  # nothing of the seeds before is left
    run(other, tmp_path / "whole")
    assert contents(tmp_path / "other") == contents(tmp_path / "whole")


def test_training_moves_students_towards_the_teacher(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: None
) -> None:
    teacher, data = distil._distillation_data(job)
    start = vectors(teacher, [*data.rows])
    assert torch.allclose(start[:, :32], data.targets[:, :32], atol=1e-5)
    assert float((start[:, 32:] * data.targets[:, 32:]).sum(1).min()) > 0.99
    longer = replace(config.PRESETS["smoke"], distil_epochs=30, static_epochs=60)
    monkeypatch.setitem(config.PRESETS, "smoke", longer)
    for name in run(job, tmp_path / "distil"):
        losses = json.loads((tmp_path / "distil" / name / "student.json").read_text())["losses"]
        assert losses[-1] < 0.9 * losses[0], name


def test_static_student_is_one_lookup_without_a_product(tmp_path: Path) -> None:
    student = StaticEncoder(50, 64, 8).eval()
    nn.init.normal_(student.table.weight)
    path, ids = tmp_path / "static.onnx", torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    axes = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
    torch.onnx.export(
        student,
        (ids, mask),
        path,
        input_names=list(axes),
        output_names=["vectors"],
        dynamic_axes=axes | {"vectors": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert (operators.count("Gather"), operators.count("MatMul"), operators.count("Gemm")) == (1, 0, 0)
    session = onnxruntime.InferenceSession(path)
    for length in (2, 3, 4):
        feeds = {"input_ids": ids[:, :length].numpy(), "attention_mask": mask[:, :length].numpy()}
        (got,) = session.run(None, feeds)
        np.testing.assert_allclose(got, student(ids[:, :length], mask[:, :length]).detach().numpy(), atol=1e-6)


def test_static_student_ignores_padding_and_depends_on_word_order() -> None:
    student = StaticEncoder(50, 64, 8).eval()
    nn.init.normal_(student.table.weight)
    padded = student(torch.tensor([[2, 7, 9, 3, 11, 12]]), torch.tensor([[1, 1, 1, 1, 0, 0]]))
    torch.testing.assert_close(padded, vectors(student, [[2, 7, 9, 3]]))
    assert not torch.allclose(vectors(student, [[2, 7, 9, 3]]), vectors(student, [[2, 9, 7, 3]]))


def test_fit_recovers_the_linear_map() -> None:
    generator = torch.Generator().manual_seed(3)
    pieces, way = torch.randn(40, 6, generator=generator), torch.randn(6, 4, generator=generator)
    rows = [torch.randint(0, 20, (5,), generator=generator).tolist() for _ in range(300)]
    targets = torch.stack([(pieces[row] @ way).mean(0) for row in rows])
    torch.testing.assert_close(fit_pieces(pieces, rows, targets), pieces @ way, atol=0.05, rtol=0.05)


def test_epoch_is_the_same_each_time_and_has_the_given_share_of_corrupted_texts(job: Job) -> None:
    tokenizer = load_tokenizer(job.folder("data") / "checkpoint", 128)
    data = DistillationData(
        _TITLES, tokenizer.encode(_TITLES), tokenizer, torch.eye(len(_TITLES)), torch.eye(20), seed=5
    )

    def seen(number: int, noisy: float) -> dict[int, list[int]]:
        batches = list(data.batches(number, 4, noisy))
        assert len(batches) == data.steps(4)
        pairs = [(w, i, m) for ids, mask, targets in batches for w, i, m in zip(targets, ids, mask, strict=True)]
        return {int(w.argmax()): i[m == 1].tolist() for w, i, m in pairs}

    clean = dict(enumerate(data.rows))
    assert seen(0, 0.0) == clean
    assert seen(0, 1.0) == seen(0, 1.0) != seen(1, 1.0)
    assert sum(row == clean[n] for n, row in seen(0, 1.0).items()) == 0


def test_loss_is_least_at_the_teachers_vectors() -> None:
    targets = nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    data = DistillationData([], [], _NO_TOKENIZER, targets, torch.eye(8), seed=0)
    assert float(data.loss(targets, targets)) == pytest.approx(0, abs=1e-5)
    assert float(data.loss(targets.roll(1, 0), targets)) > 1


def test_loss_rises_for_a_wrong_sentence_half() -> None:
    halves = nn.functional.normalize(torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    targets = torch.cat([*halves], dim=1)
    data = DistillationData([], [], _NO_TOKENIZER, targets, torch.eye(8), seed=0)
    assert float(data.loss(targets, targets)) == pytest.approx(0, abs=1e-5)
    assert float(data.loss(torch.cat([halves[0], halves[1].roll(1, 0)], dim=1), targets)) > 1
    without = replace(data, targets=halves[0])
    assert float(data.loss(torch.cat([halves[0].roll(1, 0), halves[1]], dim=1), targets)) == pytest.approx(
        float(without.loss(halves[0].roll(1, 0), halves[0])), rel=1e-5
    )


@pytest.mark.parametrize("name", ["bert3", "bert2x192", "static"])
def test_student_names_round_trip(name: str) -> None:
    assert StudentShape.parse(name).name == name


@pytest.mark.parametrize("name", ["bert", "bert0", "bert2x", "gru", "static2", "bert-3", "bert2e64", "bert2x192e64"])
def test_unknown_student_name_is_refused(name: str) -> None:
    with pytest.raises(ExportError, match="is no student"):
        StudentShape.parse(name)


def test_students_fit_the_teacher() -> None:
    names = ("bert4", "bert3", "bert2x192", "static")
    assert [r.name for r in parse_students(names, 6, 384)] == list(names)
    assert [r.name for r in parse_students(names, 2, 128)] == ["bert2", "static"]


def test_student_deeper_than_the_one_before_is_refused() -> None:
    with pytest.raises(ExportError, match="from deep to shallow"):
        parse_students(("bert1", "static", "bert3"), 6, 384)


def test_kept_layers_include_first_and_last() -> None:
    assert [spread(6, 4), spread(6, 3), spread(4, 2), spread(3, 1), spread(2, 5)] == [
        [0, 1, 3, 5],
        [0, 2, 5],
        [0, 3],
        [0],
        [0, 1],
    ]


def test_dropping_layers_does_not_change_the_deeper_student(job: Job) -> None:
    deep = TextEncoder(load_bert(job.folder("data") / "checkpoint"), 8).eval()
    shallow = drop_layers(deep, [0, 3])
    assert (len(deep.backbone.encoder.layer), len(shallow.backbone.encoder.layer)) == (4, 2)
    assert deep.backbone.config.num_hidden_layers == 4


def test_narrow_student_of_full_width_equals_the_wide_one(job: Job) -> None:
    wide = TextEncoder(load_bert(job.folder("data") / "checkpoint"), 8).eval()
    rows = load_tokenizer(job.folder("data") / "checkpoint", 128).encode(_TITLES)
    torch.testing.assert_close(vectors(prune_width(wide, 32, rows), rows), vectors(wide, rows))


def test_narrow_student_keeps_the_width_of_heads(job: Job) -> None:
    wide = TextEncoder(load_bert(job.folder("data") / "checkpoint"), 8).eval()
    bert = prune_width(wide, 16, [[2, 5, 3]]).backbone
    assert (bert.config.hidden_size, bert.config.num_attention_heads, bert.config.intermediate_size) == (16, 2, 32)
    assert len(wide.backbone.encoder.layer) == len(bert.encoder.layer) == 4
    with pytest.raises(ExportError, match="multiple of 8"):
        prune_width(wide, 12, [[2, 5, 3]])


def test_narrow_student_of_an_adopted_head_keeps_its_dense_layer() -> None:
    pooling = {"mode": "cls", "width": 24, "activation": "tanh", "with_one": True}
    wide = TextEncoder(bert(60, pooling=pooling), 25).eval()
    rows = [[2, 5 + n, 9 + n, 3] for n in range(20)]
    student = prune_width(wide, 16, rows)
    with torch.inference_mode():
        assert student(*pad(rows)).shape == (20, 25)
    old, new = (encoder.backbone.get_submodule("pooling.dense") for encoder in (wide, student))
    assert isinstance(old, nn.Linear)
    assert isinstance(new, nn.Linear)
    assert new.weight.shape == (24, 16)
    assert torch.equal(new.bias, old.bias)
    assert torch.equal(student.projection.weight, wide.projection.weight)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A tiny job whose stage `finetune` has run."""
    tiny_job = tiny.job(tmp_path_factory.mktemp("tuned"))
    tiny.run_stages(tiny_job, "finetune")
    return tiny_job


def test_students_train_on_a_sample_of_texts_and_every_phrase_when_texts_are_many(
    tuned: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = Texts.load(tuned.folder("data"))
    _, every = distil._distillation_data(tuned)
    assert len(every.texts) == len(texts.all)
    monkeypatch.setattr("swiftrec.export.stages.distil._MAX_TEXTS", 30)
    monkeypatch.setattr("swiftrec.export.stages.distil._MAX_ITEMS", 7)
    _, part = distil._distillation_data(tuned)
    rest = len(texts.phrases) + len(texts.others)
    assert (len(part.texts), len(part.rows), len(part.targets), len(part.items)) == (30 + rest, 30 + rest, 30 + rest, 7)
    assert part.texts[30:] == [*texts.all][-rest:]
    position = [every.texts.index(text) for text in part.texts[30:]]
    torch.testing.assert_close(part.targets[30:], every.targets[position])


def test_each_epoch_of_students_reads_another_sample_when_texts_are_many(
    tuned: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data = distil._distillation_data(tuned)
    full_epochs = [data.rows_of_epoch(number, 0.6) for number in range(2)]
    assert [sorted(rows) for rows in full_epochs] == [[*range(len(data.rows))]] * 2
    monkeypatch.setattr("swiftrec.export.train.distillation_data.MAX_EPOCH_TEXTS", 20)
    first, second = ({*data.rows_of_epoch(number, 0.6)} for number in range(2))
    assert len(first) == len(second) == 20
    assert first != second
    batches = [*data.batches(0, 8, 0.6)]
    assert len(batches) == data.steps(8) == 3
    targets = torch.cat([target for _, _, target in batches])
    rows = {tuple(row.tolist()) for row in data.targets[sorted(first)]}
    assert {tuple(row.tolist()) for row in targets} == rows
