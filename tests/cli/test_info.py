"""The verbs `info` and `convert` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from dropmae import registry, weights
from dropmae.cli import main
from dropmae.verbs.info import info
from dropmae.video.decoder import turned, upright
from official_files import (
    put,
    tiny_classifier,
    tiny_mae,
)


@pytest.fixture
def module() -> Any:
    return registry.load("methods", "dropmae")(size="tiny", image=64).eval()


@pytest.fixture
def ours(module: Any, tmp_path: Path) -> Path:
    weights.save(module, tmp_path / "w.safetensors", {"training": {"steps": 7}})
    return tmp_path / "w.safetensors"


def test_info_says_what_a_file_is(module: Any, ours: Path, tmp_path: Path) -> None:
    found = info(ours)
    assert (found["kind"], found["class"], found["precision"]) == ("weights", "dropmae", "F32")
    assert found["parameters"]["encoder"] == sum(p.numel() for p in module.encoder.parameters())
    assert found["training"] == {"steps": 7}
    found = info(put({"model": tiny_mae(), "epoch": 3}, tmp_path / "x.pth"))
    assert (found["kind"], found["layout"], found["entry"], found["grid"]) == ("checkpoint", "mae", "model", [4, 4])
    assert found["training"] == {"epoch": 3}
    found = info(put({"a": {"b": torch.zeros(3)}}, tmp_path / "x.pth"))
    assert (found["layout"], found["entries"]) == (None, {"a": 3})
    assert "no encoder" in found["obstacle"]
    json.dumps(found, allow_nan=False)


def test_info_says_what_a_folder_is(module: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"method": "dropmae", "fields": {"size": "tiny"}}))
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    weights.save(module, run / "last.safetensors")
    found = info(run)
    assert (found["kind"], found["method"], found["last"]) == ("run", "dropmae", {"step": 2, "loss": 1.5})
    assert found["weights"]["class"] == "dropmae"
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a", "b"):
        np.save(videos / f"{name}.npy", np.zeros((4, 24, 32, 3), np.uint8))
    found = info(videos / "a.npy")
    assert (found["kind"], found["frames"], found["height"], found["width"]) == ("video", 4, 24, 32)
    (videos / "c.mp4").write_text("no video")
    found = info(videos)
    assert (found["kind"], found["videos"], len(found["probed"])) == ("folder", 3, 2)
    assert list(found["unreadable"]) == ["c.mp4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no run, video or frames"):
        info(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such file"):
        info(tmp_path / "nothing")


def with_sound(path: Path) -> Path:
    """A video of ten frames of 64x48 at 5 per second with one second of silence."""
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=5), container.add_stream("aac", rate=16000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound.layout = "mono"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), "rgb24")
            container.mux(video.encode(frame))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        silence.rate = 16000
        container.mux([*sound.encode(silence), *sound.encode(None), *video.encode(None)])
    return path


def test_info_of_a_video_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = info(with_sound(tmp_path / "x.mp4"))
    assert {key: found[key] for key in ("frames", "width", "height", "fps", "codec", "pixel_format", "rotation")} == {
        "frames": 10,
        "width": 64,
        "height": 48,
        "fps": 5.0,
        "codec": "h264",
        "pixel_format": "yuv420p",
        "rotation": None,
    }
    assert found["sound"] == ["aac, 16000 Hz, 1 channels"]
    assert found["seconds"] == pytest.approx(2, abs=0.01)
    assert "frames: 10\nwidth: 64" in capsys.readouterr().err


def test_numbers_can_be_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((1, 2, 2160, 3), np.uint8))
    info(tmp_path / "wide.npy")
    assert "width: 2160" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([[0, 1], [-1, 0]], "90 degrees"),
        ([[-1, 0], [0, -1]], "180 degrees"),
        ([[0, -1], [1, 0]], "270 degrees"),
        ([[-1, 0], [0, 1]], "0 degrees, mirrored"),
    ],
)
def test_rotations_in_words(matrix: list[list[int]], said: str) -> None:
    turn = np.array(matrix, float)
    assert turned(turn) == said
    corner = np.zeros((2, 3, 3), np.uint8)
    corner[0, 0] = 9
    place = np.argwhere(upright(corner, turn)[..., 0])[0].tolist()
    expected = {"90 degrees": [0, 1], "180 degrees": [1, 2], "270 degrees": [2, 0], "0 degrees, mirrored": [0, 2]}
    assert place == expected[said], "as the pictures are turned"


def test_convert_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = put(tiny_classifier((2, 6)), tmp_path / "x.pth"), tmp_path / "x.safetensors"
    assert main(["convert", str(path), str(out)]) == 2
    assert main(["convert", str(path), str(out), "--image", "32", "96", "--half", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["fields"]["image"] == [32, 96]
    assert "licence of the weights: DINO: Apache-2.0" in printed.err
    before = out.read_bytes()
    path.write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    assert main(["convert", str(path), str(out)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "refused" in error
    assert out.read_bytes() == before
