"""Large catalogues: texts and token ids that are not held, samples instead of all, errors instead of full memory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from swiftrec.export.config import PRESETS, ExportSettings
from swiftrec.export.data.lazy import Joined, TextFile
from swiftrec.export.data.queries import NEGATION, SIMILAR, Phrase
from swiftrec.export.data.split import Cases, Split
from swiftrec.export.data.text_variants import TextRows, Texts, TextVariant, write_texts
from swiftrec.export.data.token_store import TokenRows, chunks
from swiftrec.export.errors import ExportError
from swiftrec.export.models.backbone import Backbone
from swiftrec.export.models.bucketing import by_length, shuffled
from swiftrec.export.models.encoder import load_tokenizer
from swiftrec.export.models.ranker import LastUser
from swiftrec.export.models.teacher import Teacher, TextFeatures
from swiftrec.export.stages import distil, finetune
from swiftrec.export.train.samplers import QuerySampler
from swiftrec.export.train.training_data import negatives_of
from swiftrec.export.train.validation import validate
from tests.export.tiny import dataset, job, write_checkpoint

_TEXTS = ["river 1", "", "night\u2028 2. war", "garden", "日本"]


def test_texts_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    held, made = write_texts(dataset(), 3, ["one", "two"]), write_texts(dataset(), 3, ["one", "two"], tmp_path)
    assert all(isinstance(way, TextFile) for way in made.variants)
    assert [*made.all] == [*held.all]
    assert [(p.text, list(p.items)) for p in made.phrases] == [(p.text, list(p.items)) for p in held.phrases]
    made.save(tmp_path)
    result = Texts.load(tmp_path)
    assert [*result.all] == [*held.all]
    assert [(p.text, list(p.items)) for p in result.phrases] == [(p.text, list(p.items)) for p in held.phrases]
    assert (result.others, result.held) == (held.others, held.held)
    assert len({id(p.items) for p in result.phrases}) < len(result.phrases)  # those that ask the same share their items


def test_every_text_is_at_the_row_that_its_variant_says() -> None:
    data = dataset()
    texts = write_texts(data, 3, ["one", "two"])
    every, rows = texts.all, texts.rows
    for n, item in enumerate(data.items):
        assert every[rows.row(TextVariant.FULL, n)] == item.text
        assert every[rows.row(TextVariant.TITLE, n)] == item.title
        words = every[rows.row(TextVariant.TITLE_WORDS, n)]
        assert words
        assert words in item.title.lower()
    for variant in TextVariant:
        assert [*every][rows.of(variant)] == [*texts.variants[variant]]
        assert rows.owners([rows.row(variant, 3), rows.row(variant, 0)]).tolist() == [3, 0]
    assert every[rows.first_phrase] == texts.phrases[0].text
    assert rows.owners([rows.first_phrase, rows.first_phrase + 2]).tolist() == [rows.items, rows.items + 2]


def test_line_files_and_joined_parts_behave_like_lists(tmp_path: Path) -> None:
    joined = Joined([TextFile.write(_TEXTS, tmp_path / "texts"), [], ["x", "y"]])
    expected = [*_TEXTS, "x", "y"]
    assert [joined[n] for n in range(-7, 7)] == [expected[n] for n in range(-7, 7)]
    assert (len(joined), [*joined], joined[1::2], joined[-3:]) == (7, expected, expected[1::2], expected[-3:])
    with pytest.raises(IndexError):
        joined[7]


def test_token_rows_equal_the_tokenizer_and_progress_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "checkpoint")
    monkeypatch.setattr("swiftrec.export.data.token_store.CHUNK", 2)
    tokenizer = load_tokenizer(tmp_path / "checkpoint", 32)
    steps: list[None] = []
    rows = TokenRows(tokenizer, _TEXTS, lambda: steps.append(None))
    assert [*rows] == tokenizer.encode(_TEXTS)
    assert len(steps) == chunks(_TEXTS) == 3


def unnamed_files() -> int:
    """Files that this process has mapped and that no folder names."""
    return Path("/proc/self/maps").read_text().count("(deleted)")


def test_vectors_too_large_for_memory_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "checkpoint")
    backbone = Backbone(tmp_path / "checkpoint", load_tokenizer(tmp_path / "checkpoint", 32).encode(_TEXTS), layers=0)
    held = backbone.encode_all()
    before = unnamed_files()
    monkeypatch.setattr("swiftrec.export.models.backbone._MAX_IN_MEMORY", 10)
    steps: list[None] = []
    on_disk = backbone.encode_all(lambda: steps.append(None))
    assert torch.equal(held, on_disk)
    assert len(steps) == backbone.batches == 1
    assert unnamed_files() == before + 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_batches_hold_every_text_once_and_similar_lengths_together() -> None:
    rng, lengths = np.random.default_rng(0), np.random.default_rng(1).integers(1, 60, 1_000)
    for batches in (by_length(lengths, 16), shuffled(rng.permutation(1_000), lengths, 16, rng)):
        assert sorted(n for batch in batches for n in batch) == list(range(1_000))
        assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 12


@pytest.mark.parametrize(
    ("loss", "items", "drawn"), [("auto", 9, None), ("auto", 11, 512), ("softmax", 11, None), ("mse", 9, 512)]
)
def test_loss_reads_a_sample_of_a_large_catalogue(
    loss: str, items: int, drawn: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftrec.export.train.training_data.FULL_ITEMS", 10)
    settings = ExportSettings(_cli_parse_args=["--loss", loss])
    assert negatives_of(settings, items) == drawn


@pytest.mark.parametrize(
    ("flags", "items", "words"),
    [
        (["--batch", "1024"], 20_000, "--loss auto over 20,000 items with --batch 1024 needs 16 GB a step"),
        (["--batch", "1024", "--loss", "sampled"], 20_000, "use --batch 256 --accumulate 4$"),
        (["--batch", "1024", "--loss", "sampled"], 1_000_000, "--loss sampled over 1,000,000 items"),
        (["--batch", "512", "--loss", "mse", "--accumulate", "2"], 20_000, "use --batch 128 --accumulate 8$"),
        (["--loss", "softmax"], 1_000_000, "needs 12 GB a step.*use --batch 8 --accumulate 2, or --loss auto$"),
    ],
)
def test_step_that_would_not_fit_is_refused_with_the_batch_that_does(flags: list[str], items: int, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        negatives_of(ExportSettings(_cli_parse_args=flags), items)


@pytest.mark.parametrize("loss", ["auto", "softmax", "sampled", "mse"])
@pytest.mark.parametrize("items", [1_000, 20_000, 300_000])
def test_advised_batch_fits(loss: str, items: int) -> None:
    flags = ["--loss", loss, "--batch", "100000", "--teachers", "3"]
    with pytest.raises(ExportError) as caught:
        negatives_of(ExportSettings(_cli_parse_args=flags), items)
    result = re.search(r"use --batch (\d+) --accumulate (\d+)", str(caught.value))
    assert result
    batch, accumulate = map(int, result.groups())
    assert batch * accumulate >= 100_000
    flags[3] = str(batch)
    negatives_of(ExportSettings(_cli_parse_args=flags), items)


def test_auto_samples_negatives_if_the_whole_catalogue_does_not_fit() -> None:
    fits, does_not = (["--batch", batch, "--teachers", "3"] for batch in ("32", "220"))
    assert negatives_of(ExportSettings(_cli_parse_args=fits), 20_000) is None
    assert negatives_of(ExportSettings(_cli_parse_args=does_not), 20_000) == 512


def test_batch_of_the_preset_scores_the_whole_catalogue_up_to_20_000_items() -> None:
    for preset in PRESETS:
        assert negatives_of(ExportSettings(preset=preset, _cli_parse_args=[]), 20_000) is None


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


def test_students_read_a_sample_of_many_texts_and_every_phrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_job = job(tmp_path)
    output = tiny_job.folder("finetune")
    output.mkdir()
    finetune.run(tiny_job, output)
    texts = Texts.load(tiny_job.folder("data"))
    _, whole = distil._distillation_data(tiny_job)
    assert len(whole.texts) == len(texts.all)
    monkeypatch.setattr("swiftrec.export.stages.distil._MAX_TEXTS", 30)
    monkeypatch.setattr("swiftrec.export.stages.distil._MAX_ITEMS", 7)
    _, part = distil._distillation_data(tiny_job)
    rest = len(texts.phrases) + len(texts.others)
    assert (len(part.texts), len(part.rows), len(part.targets), len(part.items)) == (30 + rest, 30 + rest, 30 + rest, 7)
    assert part.texts[30:] == [*texts.all][-rest:]
    position = [whole.texts.index(text) for text in part.texts[30:]]
    torch.testing.assert_close(part.targets[30:], whole.targets[position])


def test_epoch_of_students_reads_a_part_of_many_texts_and_another_one_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_job = job(tmp_path)
    output = tiny_job.folder("finetune")
    output.mkdir()
    finetune.run(tiny_job, output)
    _, data = distil._distillation_data(tiny_job)
    whole = [data.rows_of_epoch(number, 0.6) for number in range(2)]
    assert [sorted(rows) for rows in whole] == [[*range(len(data.rows))]] * 2
    monkeypatch.setattr("swiftrec.export.train.distillation_data.MAX_EPOCH_TEXTS", 20)
    first, second = ({*data.rows_of_epoch(number, 0.6)} for number in range(2))
    assert len(first) == len(second) == 20
    assert first != second
    batches = [*data.batches(0, 8, 0.6)]
    assert len(batches) == data.steps(8) == 3
    targets = torch.cat([target for _, _, target in batches])
    rows = {tuple(row.tolist()) for row in data.targets[sorted(first)]}
    assert {tuple(row.tolist()) for row in targets} == rows


def test_queries_match_their_target() -> None:
    phrases = [
        Phrase("a", [0, 2]),
        Phrase("b", np.array([2], np.int32)),
        Phrase("c", [3], NEGATION),
        Phrase("like 2", [2], SIMILAR),
    ]
    drawn = QuerySampler([np.array([1, 0, 2, 3])], phrases, TextRows(5, 4)).draw(2_000, np.random.default_rng(0))
    phrase, way = (drawn.text - 4 * 5).tolist(), (drawn.text // 5).tolist()
    targets = drawn.target.tolist()
    assert {(w, p) for w, p in zip(targets, phrase, strict=True) if p >= 0} == {(0, 0), (2, 0), (2, 1), (3, 2), (3, 3)}
    assert {*way} == {TextVariant.TITLE_WORDS, TextVariant.DROPPED, 4}
    assert all(t % 5 == w for t, w, p in zip(drawn.text.tolist(), targets, phrase, strict=True) if p < 0)
    lengths = [n for n, p in zip(drawn.lengths.tolist(), phrase, strict=True) if p == 3]
    assert {*lengths} == {0}  # "like 2" asks for what came after 2, and is all that is known
