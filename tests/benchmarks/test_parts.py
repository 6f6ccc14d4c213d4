"""What the parts of a score cost a request."""

from __future__ import annotations

import json

import pytest

from swiftrec.benchmarks import parts
from swiftrec.server.models.bundle import Bundle


def test_every_kind_of_request_is_measured_with_all_parts_and_with_the_ranker_alone(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = parts.PartsSettings(bundle=bundle.folder, requests=5, repeats=2, _cli_parse_args=[])
    assert parts.run(settings) == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    found = json.loads(last)
    for kind in parts.KINDS:
        assert any(line.startswith(kind) for line in lines)
        assert all(us > 0 for row in found["us"][kind] for us in row)
        assert [len(row) for row in found["us"][kind]] == [2, 2]
        for (whole, alone), ratio in zip(found["us"][kind], found["with_grpc"][kind], strict=True):
            assert ratio == pytest.approx((whole + settings.grpc_us) / (alone + settings.grpc_us))
