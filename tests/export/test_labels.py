"""Labels of a classifier are item ids: kept byte for byte, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swiftrec.export.checkpoints.heads import read_head
from swiftrec.export.data.issues import Mistakes
from swiftrec.export.data.loader import read
from swiftrec.export.data.lost import has_label
from swiftrec.export.errors import CheckpointError
from tests.export.checkpoints import save_model

_LABELS = ["AC  DC", "a\u00a0b", " c ", "1.0", "1", "x|y,z"]


def test_labels_are_the_ids_of_items_byte_for_byte(tmp_path: Path) -> None:
    save_model("bert", tmp_path / "bert", "ForSequenceClassification", id2label=dict(enumerate(_LABELS)))
    head = read_head(tmp_path / "bert", "classifier")
    assert head is not None
    assert list(head.labels) == _LABELS
    (tmp_path / "items.jsonl").write_text("\n".join(json.dumps({"item_id": i, "text": "t"}) for i in _LABELS))
    (tmp_path / "out").mkdir()
    collected = read(tmp_path, tmp_path / "out", needs_interactions=False, labels={*head.labels})
    assert [item.id for item in collected.dataset.items] == _LABELS


@pytest.mark.parametrize(
    ("label", "fault"),
    [
        ("a\tb", r"id2label names 'a\\tb', which holds the control character U\+0009, so it is no item_id: give each"),
        ("  ", "id2label names '  ', which is empty or white space only"),
        ("x" * 513, "which has 513 bytes as UTF-8, at most 512 are allowed"),
    ],
)
def test_label_that_is_no_id_is_refused_by_name(tmp_path: Path, label: str, fault: str) -> None:
    save_model("bert", tmp_path / "bert", "ForSequenceClassification", id2label={0: "a", 1: label, 2: "c"})
    with pytest.raises(CheckpointError, match=fault):
        read_head(tmp_path / "bert", "classifier")


@pytest.mark.parametrize(
    ("item", "hint"),
    [("1", ", but '1.0' is: ids became decimal numbers"), ("b", ", but ' b' is: blanks around an id count"), ("c", "")],
)
def test_item_whose_label_is_spelt_otherwise_is_told_so(item: str, hint: str) -> None:
    mistakes = Mistakes()
    assert not has_label(item, {"1.0", " b"}, "here", mistakes)
    assert f"item_id {item!r} is none of the labels in id2label of the checkpoint{hint}" in mistakes.report()
    assert (", but" in mistakes.report()) == bool(hint)
