"""Distillation: what the target is, what the student begins as, crops that match, stored features, whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import dropmae
from dropmae import weights
from dropmae.data.clips import Sequence, generator
from dropmae.methods.distill import Distill
from dropmae.nn import masking
from dropmae.registry import load
from dropmae.runs import Run

PICTURES = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (2, 3, 64, 64), np.uint8))


def batch(frames: torch.Tensor, **more: Any) -> dict[str, Any]:
    frames = frames if frames.ndim == 5 else frames[:, None]
    return {"frames": frames, "index": torch.arange(len(frames)), "seed": 0, "step": 0, "progress": 0.0, **more}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny encoder with learned positions on a 4x4 grid and a class token; features differ from place to place."""
    torch.manual_seed(1)
    module = load("methods", "mae")(size="tiny", image=64, learned_positions=4, cls=True)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    module.decoder = weights.Missing("decoder", "teacher")
    weights.save(module, path, {"licence": "Made-up 1.0"})
    return str(path)


def test_the_target_is_what_the_teacher_computes(teacher: str) -> None:
    source = dropmae.load(teacher).encoder
    student = Distill(size="tiny", image=64, teacher=teacher)
    frames = masking.normalize(PICTURES)
    expected = source.features(frames).flatten(2).transpose(1, 2)
    assert student.teacher_width == 192
    torch.testing.assert_close(student.targets(frames[:, None]), expected)
    last = Distill(size="tiny", image=64, teacher=teacher, layers=(12,)).targets(frames[:, None])
    torch.testing.assert_close(last, expected)
    two = Distill(size="tiny", image=64, teacher=teacher, layers=(3, 12))
    assert two.teacher_width == 384
    joined = two.targets(frames[:, None])
    torch.testing.assert_close(joined[..., 192:], expected)
    source.blocks = source.blocks[:3]
    torch.testing.assert_close(joined[..., :192], source.features(frames).flatten(2).transpose(1, 2))


def test_a_teacher_of_another_patch_or_grid_sees_resized_pictures(teacher: str) -> None:
    source = dropmae.load(teacher).encoder
    frames = masking.normalize(PICTURES)
    fine = Distill(size="tiny", image=64, patch=8, teacher=teacher)
    large = functional.interpolate(frames, (128, 128), mode="bicubic", antialias=True)
    expected = source.features(large).flatten(2).transpose(1, 2)
    torch.testing.assert_close(fine.targets(frames[:, None]), expected)
    coarse = Distill(size="tiny", image=64, patch=8, teacher=teacher, teacher_grid=4)
    assert coarse.targets(frames[:, None]).shape == (2, 64, 192)
    with torch.no_grad():
        assert torch.isfinite(coarse(batch(PICTURES))["loss"])


def test_a_student_that_begins_as_the_whole_teacher_knows_it_all(teacher: str) -> None:
    fields: dict[str, Any] = {"size": "tiny", "image": 64, "teacher": teacher, "projection": False}
    fields |= {"learned_positions": 4, "cls": True}
    whole = Distill(begin=tuple(range(1, 13)), **fields)
    found = whole.probe(batch(PICTURES))
    assert found["cosine"] == pytest.approx(1, abs=1e-5)
    assert found["distance"] < 1e-8
    part = Distill(begin=(1, 2, 3, 4), layers=(4,), **fields)
    assert len(part.encoder.blocks) == 4
    assert part.probe(batch(PICTURES))["distance"] < 1e-8
    wider: dict[str, Any] = {**fields, "image": 96, "learned_positions": 6}
    assert Distill(begin=(1,), **wider).encoder.positions.learned_grid == (6, 6)
    with pytest.raises(ValueError, match="is no start for this student: cls_token differs"):
        Distill(begin=(1, 2), **dict[str, Any]({**fields, "size": "small", "projection": True}, heads=3))
    with pytest.raises(ValueError, match="no such blocks"):
        Distill(begin=(13,), **fields)
    with pytest.raises(ValueError, match="of another kind"):
        Distill(begin=(1,), **dict[str, Any]({**fields, "learned_positions": 0}))


def test_without_projection_widths_are_equal(teacher: str) -> None:
    with pytest.raises(ValueError, match="as wide as the target: 384 and 192"):
        Distill(size="small", image=64, teacher=teacher, projection=False)


def test_weights_load_without_the_teacher_and_refuse_another(teacher: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(Path(teacher).read_bytes())
    student = Distill(size="tiny", image=64, teacher=str(mine))
    assert student.provenance()["licence"] == "Made-up 1.0"
    weights.save(student, tmp_path / "student.safetensors", student.provenance())
    mine.unlink()
    again = dropmae.load(tmp_path / "student.safetensors")
    torch.testing.assert_close(again.encoder.features(PICTURES), student.eval().encoder.features(PICTURES))
    with pytest.raises(FileNotFoundError, match=r"mine\.safetensors"):
        again(batch(PICTURES))
    weights.save(load("methods", "mae")(size="tiny", image=64), mine)
    with pytest.raises(ValueError, match="its content differs"):
        again(batch(PICTURES))


def test_matching_finds_tokens_where_the_crops_say(teacher: str) -> None:
    student = Distill(size="tiny", image=64, teacher=teacher, matching=1.0)
    whole = [0, 0, 64, 64, 0]
    tokens = torch.eye(16)[None]
    torch.manual_seed(0)

    def loss(second: torch.Tensor, *places: list[int]) -> float:
        latent = torch.cat([tokens, second], 1)
        return float(student.found(latent, torch.tensor([places], dtype=torch.float32), (4, 4)))

    mirrored = tokens.view(1, 4, 4, 16).flip(2).reshape(1, 16, 16)
    shifted = tokens.view(1, 4, 4, 16).roll(-1, 2).reshape(1, 16, 16)
    right, wrong = loss(tokens, whole, whole), loss(mirrored, whole, whole)
    assert right < 0.01 < 5 < wrong
    assert loss(mirrored, whole, [0, 0, 64, 64, 1]) == pytest.approx(right)
    assert loss(shifted, whole, [0, 16, 64, 64, 0]) == pytest.approx(right, abs=1e-4)
    assert loss(tokens, whole, [100, 100, 64, 64, 0]) == 0  # nothing in common


def test_samples_of_matching_and_pairs(teacher: str, sequences: list[Sequence]) -> None:
    student = Distill(size="tiny", image=64, teacher=teacher, matching=1.0, colour=0.5)
    made = student.sample(sequences[0], generator(0))
    assert np.asarray(made["frames"]).shape == (2, 3, 64, 64)
    assert made["places"].shape == (2, 5)
    assert made["colours"].shape == (2, 5)
    given = {name: torch.from_numpy(np.asarray(value))[None] for name, value in made.items()}
    assert torch.isfinite(student({**batch(given["frames"]), **given})["loss"])
    pair = Distill(size="tiny", image=64, teacher=teacher, pair=True, mask_ratio=0.5)
    frames = np.asarray(pair.sample(sequences[0], generator(0))["frames"])
    assert frames.shape == (2, 3, 64, 64)
    assert torch.isfinite(pair(batch(torch.from_numpy(frames)[None]))["loss"])
    with pytest.raises(ValueError, match="two whole crops"):
        Distill(size="tiny", image=64, teacher=teacher, matching=1.0, pair=True)


def test_stored_features(teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = Distill(size="tiny", image=64, teacher=teacher, store=str(tmp_path / "store"))
    frames = masking.normalize(PICTURES)[:, None]
    plain = Distill(size="tiny", image=64, teacher=teacher).targets(frames)
    torch.testing.assert_close(student.targets(frames), plain, atol=2e-3, rtol=2e-3)
    files = sorted((tmp_path / "store").rglob("*.safetensors"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:-9])  # cut off: made anew
    torch.testing.assert_close(student.targets(frames), plain, atol=2e-3, rtol=2e-3)
    monkeypatch.setattr(Distill, "taught", lambda *_: pytest.fail("computed although it is stored"))
    student.targets(frames)
    other = Distill(size="tiny", image=64, teacher=teacher, store=str(tmp_path / "store"), layers=(3,))
    with pytest.raises(pytest.fail.Exception):
        other.targets(frames)


def test_a_teacher_without_such_blocks(teacher: str) -> None:
    with pytest.raises(ValueError, match="no block 13"):
        Distill(size="tiny", image=64, teacher=teacher, layers=(13,))
    with pytest.raises(FileNotFoundError, match="no such file"):
        Distill(size="tiny", image=64, teacher="nothing.safetensors")


def test_a_run_on_images_goes_on(teacher: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, side in enumerate((70, 1, 40)):  # one of a single pixel
        noise = np.random.RandomState(number).randint(0, 256, (side, side, 3), np.uint8)
        for name in ("a", "b"):
            (folder / f"{number}").mkdir(exist_ok=True)
            Image.fromarray(noise).save(folder / f"{number}" / f"{name}.png")
    settings: dict[str, Any] = {"teacher": teacher, "size": "tiny", "image": 64, "depth": 2, "global_batch": 4}
    settings |= {"steps": 3, "warmup": "0", "device": "cpu", "workers": 0, "precision": "fp32"}
    dropmae.pretrain("distill", folder, out=tmp_path / "run", **settings)
    header = weights.read_header(tmp_path / "run")
    assert header["licence"] == "Made-up 1.0"
    assert header["teacher"]["sha256"] == header["fields"]["teacher_digest"]
    assert len(Run(tmp_path / "run").validation) == 4
    summary = dropmae.pretrain("distill", folder, out=tmp_path / "run", **settings)
    assert summary["steps"] == 3
