"""Gradients and colours of small cells, and their compiled form."""

from __future__ import annotations

import pytest
import torch

from dropmae.ops import cells, switch


def test_gradients_are_normalised_and_turn_with_the_picture():
    picture = 255 * torch.rand(1, 3, 32, 32)
    found = cells.gradients(picture)
    assert found.shape == (1, 31, 8, 8)
    assert float(found[:, :27].max()) <= 2 * cells.CLIP + 1e-6
    torch.testing.assert_close(found[:, :27], cells.gradients(picture * 0.5)[:, :27], atol=0.03, rtol=0)
    turned = cells.gradients(picture.flip(2, 3))  # by 180 degrees: the signed bins change places, the others stay
    torch.testing.assert_close(turned[:, 18:27], found[:, 18:27].flip(2, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned[:, :9], found[:, 9:18].flip(2, 3), atol=1e-4, rtol=0)


def test_colours_tell_red_from_grey():
    picture = torch.tensor([220.0, 40.0, 40.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    assert (cells.colours(picture).argmax(1) == 3).all()
    assert (cells.colours(picture.mean(1, keepdim=True).expand(-1, 3, -1, -1)).argmax(1) != 3).all()


def pictures(kind: str, count: int, side: int) -> torch.Tensor:
    made = torch.Generator().manual_seed(side)
    if kind == "noise":
        return torch.randint(0, 256, (count, side, side, 3), generator=made, dtype=torch.uint8)
    small = torch.rand(count, 3, 6, 6, generator=made)
    smooth = torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 1)
    flat = torch.where(smooth > 0.95, torch.ones(()), smooth)  # parts without any gradient, as an overexposed sky has
    return (255 * flat).byte().permute(0, 2, 3, 1)


@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize(("count", "side"), [(1, 192), (3, 216), (2, 8), (1, 4)])
def test_fast_form_gives_the_same_with_a_compiler_or_without(
    kind: str, count: int, side: int, monkeypatch: pytest.MonkeyPatch
):
    given = pictures(kind, count, side)
    with switch.use("reference"):
        expected = cells.cells(given)
    assert expected.shape == (count, cells.CHANNELS, side // 4, side // 4)
    torch.testing.assert_close(cells.cells(given), expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(cells.cells(given.flip(1)), cells.reference(given.flip(1)), atol=2e-5, rtol=1e-4)
    monkeypatch.setattr(switch, "compiled", lambda library: False)
    assert torch.equal(cells.cells(given), expected)


def test_half_precision_around_it_changes_nothing():
    given = pictures("smooth", 1, 32)
    expected = cells.reference(given)
    cells.memberships.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cells.reference(given), expected)
        torch.testing.assert_close(cells.cells(given), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 8, 12, 3), (1, 10, 10, 3)])
def test_what_has_no_whole_cells_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="squares whose side 4 divides"):
        cells.cells(torch.zeros(shape, dtype=torch.uint8))
