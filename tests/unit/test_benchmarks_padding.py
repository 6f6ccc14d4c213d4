"""`python -m benchmarks padding`: batches of one shape that differ in what is masked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.__main__ import main
from benchmarks.padding import measure
from server.models.bundle import Bundle


class Seen:
    def __init__(self) -> None:
        self.masks: list[NDArray[np.generic]] = []

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        self.masks.append(feeds["attention_mask"])
        return np.zeros((len(feeds["input_ids"]), 1), dtype=np.float32)


def test_every_batch_has_the_same_shape_and_its_share_of_padding() -> None:
    seen = Seen()
    found = measure({"one": seen}, rows=4, length=32, repeats=2)
    assert {mask.shape for mask in seen.masks} == {(4, 32)}
    assert [int((mask == 0).sum()) for mask in seen.masks] == [0, 3, 48, 0, 3, 48]
    assert all(us >= 0 for us in found["one"])


def test_both_sessions_are_told(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["padding", "--bundle", str(bundle.folder), "--variant", "bert3-int8", "--repeats", "3"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["us_a_row"]
    assert {(row["session"], row["rows"]) for row in rows} == {(s, n) for s in ("served", "plain") for n in (2, 4)}
    assert all(row[name] > 0 for row in rows for name in ("us", "one", "half"))
