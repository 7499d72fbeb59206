"""A little of `make fuzz`: mutated files of each kind, in a few seconds."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import fuzz
from dropmae.video import write


@pytest.mark.parametrize(("kind", "count"), [("checkpoints", 30), ("media", 40), ("annotations", 40)])
def test_mutated_files_do_no_harm(kind: str, count: int) -> None:
    found = fuzz.fuzz(kind, count, seed=1)
    assert found["bad"] == []
    assert found["inputs"] == count
    assert found.get("refused", 0) > count // 5


@pytest.mark.parametrize("made", [("stsz", 1, 10**9), ("stsz", 0, 10**9), ("stts", 10**9, 512), ("stsc", 1, 10**9, 1)])
def test_an_index_that_claims_a_thousand_million_frames(made: tuple[str, int], tmp_path: Path) -> None:
    name, *numbers = made
    write(tmp_path / "v.mp4", fuzz.frames(), 25)
    data = bytearray((tmp_path / "v.mp4").read_bytes())
    at = data.index(name.encode()) + (8 if name == "stsz" else 12)
    data[at : at + 4 * len(numbers)] = struct.pack(f">{len(numbers)}I", *numbers)
    (tmp_path / "v.mp4").write_bytes(data)
    found = fuzz.tried(tmp_path / "v.mp4")
    assert found["kind"] in ("read", "refused")
    assert found["seconds"] < 5
    assert found["megabytes"] < fuzz.MEGABYTES
