"""A little of `make fuzz`: mutated files of each kind, in a few seconds."""

from __future__ import annotations

import pytest

import fuzz


@pytest.mark.parametrize(("kind", "count"), [("checkpoints", 30), ("media", 40), ("annotations", 40)])
def test_mutated_files_do_no_harm(kind: str, count: int) -> None:
    found = fuzz.fuzz(kind, count, seed=1)
    assert found["bad"] == []
    assert found["inputs"] == count
    assert found.get("refused", 0) > count // 5
