"""Vocabulary pruning: tokenisation of known texts does not change, with examples and generated texts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors

from swiftrec.export.checkpoints.vocabulary import Vocabulary, choose_pieces, cut_tokenizer, read_wordpiece
from swiftrec.export.config import PRESETS, ExportSettings
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.errors import ExportError
from swiftrec.export.models.encoder import load_tokenizer, pad
from swiftrec.export.models.students import load_student
from swiftrec.export.stages import distil, finetune
from swiftrec.server.models.tokenizer import Tokenizer
from tests.export.tiny import StoppedJob, job, run_stages, write_checkpoint

_UNUSED = ("gardens", "##zq", "日")
_RANKER = PRESETS["smoke"].dimensions
_UNSEEN = ("a letter of the garden", "gardens", "x-ray 42", "日本 ☃", "")


def tokens(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder / "tokenizer.json", 32)


def facts(tiny: StoppedJob) -> dict[str, Any]:
    return read_wordpiece(tiny.folder("data") / "checkpoint" / "tokenizer.json")


def pieces(rows: list[list[int]], fields: dict[str, Any]) -> list[list[str]]:
    names = {n: piece for piece, n in fields["model"]["vocab"].items()}
    return [[names[n] for n in row] for row in rows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All students distilled with every piece and with the used ones; both with words that no text has."""
    folders: dict[str, Path] = {}
    with pytest.MonkeyPatch.context() as patched:  # the words that no text has are frequent in so small a vocabulary
        patched.setattr(distil, "frequent_words", lambda *_: ["river", "drama"])
        _train(tmp_path_factory, folders)
    return folders


def _train(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> None:
    for vocabulary in ("all", "used"):
        tiny = job(
            tmp_path_factory.mktemp(vocabulary), "--vocabulary", vocabulary, "--students", "bert2,bert1x8,static"
        )
        shutil.rmtree(tiny.folder("data") / "checkpoint")
        write_checkpoint(tiny.folder("data") / "checkpoint", more=_UNUSED)
        run_stages(tiny, "finetune", "distil")
        folders[vocabulary] = tiny.folder("distil")


def test_unused_pieces_are_removed_from_tokenizer_and_embeddings(trained: dict[str, Path]) -> None:
    full, pruned = (Vocabulary.load(trained[name]) for name in ("all", "used"))
    assert full.kept == full.total == pruned.total == pruned.kept + 2
    assert len(read_wordpiece(trained["used"] / "tokenizer.json")["model"]["vocab"]) == pruned.kept
    for name in ("bert2", "bert1x8"):
        assert (
            load_student(trained["used"] / name).state_dict()["backbone.embeddings.word_embeddings.weight"].shape[0]
            == pruned.kept
        )
    static = [load_student(trained[name] / "static").state_dict()["table.weight"].shape[0] for name in ("all", "used")]
    assert static[0] - static[1] == full.kept - pruned.kept


def test_students_train_identically_with_a_pruned_vocabulary(trained: dict[str, Path]) -> None:
    """The texts are cut into the same pieces, so a BERT reads the same rows of its table, whatever their numbers."""
    for name in ("bert2", "bert1x8"):
        vectors, losses = [], []
        for folder in trained.values():
            with torch.inference_mode():
                vectors.append(load_student(folder / name)(*pad(tokens(folder).encode(["river 0", "garden 6. drama"]))))
            losses.append(json.loads((folder / name / "student.json").read_text())["losses"])
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        torch.testing.assert_close(*vectors, atol=1e-4, rtol=0)


def test_unseen_text_is_tokenised_without_unknown_pieces(trained: dict[str, Path]) -> None:
    rows = tokens(trained["used"]).encode(_UNSEEN)
    for name in ("bert2", "bert1x8", "static"):
        with torch.inference_mode():
            vectors = load_student(trained["used"] / name)(*pad(rows))
        for half in (vectors[:, :_RANKER], vectors[:, _RANKER:]):
            torch.testing.assert_close(half.norm(dim=1), torch.ones(len(rows)))
    full, pruned = (read_wordpiece(folder / "tokenizer.json") for folder in trained.values())
    unknown = [
        [row.count("[UNK]") for row in pieces(tokens(folder).encode(_UNSEEN), fields)]
        for folder, fields in zip(trained.values(), (full, pruned), strict=True)
    ]
    assert unknown[0] == unknown[1]
    assert sum(unknown[0]) > 0


def test_number_keeps_the_needed_pieces_and_the_first_of_the_others(tmp_path: Path) -> None:
    tiny = job(tmp_path)
    fields, rows = facts(tiny), load_tokenizer(tiny.folder("data") / "checkpoint", 32).encode(["river"])
    vocabulary: dict[str, int] = fields["model"]["vocab"]
    needed = choose_pieces(fields, rows, 0)
    assert {vocabulary[piece] for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "river", "q", "##q")} < {*needed}
    assert vocabulary["night"] not in needed
    assert choose_pieces(fields, rows, 3) == needed
    more = choose_pieces(fields, rows, len(needed) + 2)
    assert {*more} - {*needed} == {vocabulary["night"], vocabulary["garden"]}


def test_piece_that_others_cannot_compose_is_kept(tmp_path: Path) -> None:
    fields = facts(job(tmp_path))
    vocabulary: dict[str, int] = fields["model"]["vocab"]
    for piece in ("dé", "##né", "[unused1]", "ab"):
        vocabulary[piece] = len(vocabulary)
    kept = choose_pieces(fields, [], len(vocabulary))
    assert {vocabulary["dé"], vocabulary["##né"], vocabulary["ab"]} < {*kept}
    assert vocabulary["[unused1]"] not in kept
    assert vocabulary["ab"] not in choose_pieces(fields, [], 0)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
            },
        },
    ],
    ids=["bert", "template"],
)
@pytest.mark.parametrize("is_in_sequence", [False, True])
def test_special_tokens_get_new_ids(tmp_path: Path, part: dict[str, Any], *, is_in_sequence: bool) -> None:
    fields = facts(job(tmp_path))
    vocabulary: dict[str, int] = {f"[unused{n}]": n for n in range(2)}  # ids move
    vocabulary |= {piece: n + 2 for piece, n in fields["model"]["vocab"].items()}
    text = json.dumps(part).replace("3]", "5]").replace("2]", "4]")
    part = json.loads(text)
    fields["model"]["vocab"], fields["added_tokens"] = vocabulary, []
    fields["post_processor"] = {"type": "Sequence", "processors": [part]} if is_in_sequence else part
    kept = choose_pieces(fields, [], 0)
    cut = Backend.from_str(json.dumps(cut_tokenizer(fields, kept)))
    assert cut.encode("river").tokens == ["[CLS]", "r", "##i", "##v", "##e", "##r", "[SEP]"]
    assert cut.encode("river").ids == [cut.token_to_id(token) for token in cut.encode("river").tokens]


def test_added_token_is_kept_by_pruning(tmp_path: Path) -> None:
    tiny = job(tmp_path)
    backend = Backend.from_str(json.dumps(facts(tiny)))
    backend.add_tokens(["swiftrec"])
    fields = json.loads(backend.to_str())
    cut = Backend.from_str(json.dumps(cut_tokenizer(fields, choose_pieces(fields, [], 0))))
    assert cut.encode("a swiftrec b").tokens == backend.encode("a swiftrec b").tokens
    assert cut.token_to_id("swiftrec") == cut.get_vocab_size() - 1


def test_tokenizer_of_another_kind_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    tiny = job(tmp_path, "--vocabulary", "used")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    backend.save(str(tiny.folder("data") / "checkpoint" / "tokenizer.json"))
    with pytest.raises(ExportError, match=r"--vocabulary .* is BPE: use 'all'"):
        finetune.run(tiny, tmp_path)


@pytest.mark.parametrize("value", ["none", "0", "-3", "1e4", ""])
def test_vocabulary_is_all_used_or_a_number(value: str) -> None:
    with pytest.raises(ValidationError):
        ExportSettings(vocabulary=value, _cli_parse_args=[])


def test_texts_of_the_catalogue_are_tokenised_as_before(trained: dict[str, Path]) -> None:
    texts = Texts.load(trained["all"].parent / "data").all
    before, after = (
        pieces(tokens(folder).encode(texts), read_wordpiece(folder / "tokenizer.json")) for folder in trained.values()
    )
    assert before == after


def test_pieces_of_texts_outside_the_sample_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil, "_MAX_TEXTS", 5)
    tiny = job(tmp_path, "--vocabulary", "used", "--students", "static")
    run_stages(tiny, "finetune", "distil")
    full, pruned = tokens(tiny.folder("data") / "checkpoint"), tokens(tiny.folder("distil"))
    texts = Texts.load(tiny.folder("data"))
    before = pieces(full.encode(texts.all), facts(tiny))
    assert before == pieces(pruned.encode(texts.all), read_wordpiece(tiny.folder("distil") / "tokenizer.json"))
    _, data = distil._distillation_data(tiny)
    drawn = {n for row in data.rows for n in row}
    assert {n for row in full.encode(texts.all) for n in row} - drawn  # control: some are in no text that was drawn


def test_token_ids_of_all_texts_are_never_in_memory_at_once(tmp_path: Path) -> None:
    given: list[ref[Row]] = []
    held = []

    class Row(list[int]):
        """Token ids that can be watched."""

    def rows() -> Iterator[Row]:
        for n in range(50):
            row = Row([n % 9])
            given.append(ref(row))
            held.append(sum(reference() is not None for reference in given))
            yield row
            del row

    choose_pieces(facts(job(tmp_path)), rows(), 0)
    assert len(held) == 50
    assert max(held) <= 3


_LETTERS, _SPECIAL = "abc", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ALPHABET = (*_LETTERS, *(f"##{letter}" for letter in _LETTERS))
_long = st.text(_LETTERS, min_size=2, max_size=5).flatmap(lambda text: st.sampled_from([text, f"##{text}"]))
_vocabularies = st.lists(_long, unique=True, max_size=30)
_texts = st.lists(st.one_of(st.text(_LETTERS, max_size=9), st.text(max_size=4)), max_size=6).map(" ".join)


def tokenizer(pieces: list[str]) -> Backend:
    """WordPiece as BERT has it, with letters and the given pieces; ids begin with unused ones."""
    numbered = {piece: n for n, piece in enumerate(["[PAD]", "[unused1]", *_SPECIAL[1:], *_ALPHABET, *pieces])}
    backend = Backend(models.WordPiece(numbered, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", numbered["[SEP]"]), ("[CLS]", numbered["[CLS]"]))
    backend.add_special_tokens([*_SPECIAL])
    return backend


def cut(whole: Backend, texts: list[str], limit: int, *, without: str = "") -> Backend:
    facts = json.loads(whole.to_str())
    kept = choose_pieces(facts, [whole.encode(text).ids for text in texts], limit)
    return Backend.from_str(json.dumps(cut_tokenizer(facts, [n for n in kept if n != whole.token_to_id(without)])))


def spelling(backend: Backend, text: str) -> str:
    """What the pieces say together; unknown words as such."""
    return "".join(token.removeprefix("##") for token in backend.encode(text).tokens)


@given(_vocabularies, st.lists(_texts, max_size=4), _texts, st.integers(0, 40))
def test_any_text_can_be_tokenised_and_known_texts_as_before(
    pieces: list[str], own: list[str], other: str, limit: int
) -> None:
    whole = tokenizer(pieces)
    small = cut(whole, own, limit)
    assert all(small.encode(text).tokens == whole.encode(text).tokens for text in own)
    assert spelling(small, other) == spelling(whole, other)
    assert small.get_vocab_size() <= whole.get_vocab_size()
    assert all(n < small.get_vocab_size() for n in small.encode(other).ids)


def test_vocabulary_without_a_letter_is_detected() -> None:
    """Negative control."""
    whole = tokenizer(["ab"])
    small = cut(whole, [], 0, without="##b")
    assert spelling(small, "ab") == "[CLS][UNK][SEP]" != spelling(whole, "ab") == "[CLS]ab[SEP]"
