"""The bench: every method beside the textbook form, which drops what ours drops."""

from __future__ import annotations

import json

import pytest
import torch

from dropmae import registry
from dropmae.bench import TEXTBOOK, textbook
from dropmae.cli import main
from dropmae.ops import asad


def test_every_method_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--size", "tiny", "--image", "64", "--batch", "2", "--rounds", "1", "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["steps"]) == {*registry.names("methods"), TEXTBOOK}
    assert result["steps"]["twinmae"]["times_twinmae"] == 1
    assert all(row["seconds"] > 0 for row in result["steps"].values())
    assert {"date", "device", "torch", "commit"} <= result["setting"].keys()


def test_the_textbook_form_drops_as_many_pairs() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 2, 3, 18, 8).unbind(0)
    count = asad.drop_count(0.3, 9)
    seen = textbook(query, key, torch.eye(18).expand(2, 3, 18, 18), count)
    assert torch.equal((seen == 0).sum((-1, -2)), torch.full((2, 3), count))
    torch.testing.assert_close(seen.sum(-1), torch.ones(2, 3, 18))
