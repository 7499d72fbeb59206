"""Scans as frames of a Video, in the forms people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dropmae import registry
from dropmae.engine import Engine
from dropmae.target import Target
from dropmae.video import Video
from dropmae.video.scans import read_scan


def cloud(number: int, columns: int = 4) -> np.ndarray:
    """float32 [P, C]; each has another number of points."""
    return np.random.default_rng(number).normal(0, 10, (20 + number, columns)).astype(np.float32)


def pcd(path: Path, points: np.ndarray, data: str, fields: str = "intensity x y z") -> None:
    header = f"# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
    header += f"WIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA {data}\n"
    rows = points[:, [3, 0, 1, 2]]
    text = "\n".join(" ".join(f"{value:.9g}" for value in row) for row in rows.tolist()).encode()
    path.write_bytes(header.encode() + (rows.tobytes() if data == "binary" else text))


@pytest.mark.parametrize("ending", [".bin", ".pcd.bin", ".npy", "binary.pcd", "ascii.pcd"])
def test_a_folder_of_scans_is_a_video(ending: str, tmp_path: Path) -> None:
    columns = 5 if ending == ".pcd.bin" else 4
    for number in range(11):
        path = tmp_path / f"{number}{ending}"
        if ending.endswith("bin"):
            cloud(number, columns).tofile(path)
        elif ending == ".npy":
            np.save(path, cloud(number))
        else:
            pcd(path, cloud(number), ending.split(".")[0])
    video = Video(tmp_path)
    assert (video.kind, len(video)) == ("scan", 11)
    for number, scan in enumerate(video):
        assert scan.dtype == np.float32
        np.testing.assert_allclose(scan, cloud(number, columns), rtol=1e-6)
    assert [len(scan) for scan in video[[10, 2]]] == [30, 22]
    assert np.array_equal(video[-1], video[10])
    assert [len(scan) for scan in video[::-5]] == [30, 25, 20]
    with pytest.raises(ValueError, match="no height"):
        _ = video.height
    with pytest.raises(ValueError, match="no motion"):
        video.motion(1)


def test_a_folder_of_pictures_is_none(tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(FileNotFoundError, match="no images"):
        Video(tmp_path)
    assert Video(np.zeros((2, 8, 8, 3), np.uint8)).kind == "picture"


def test_bad_scans_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(cloud(0).tobytes()[:-3])
    with pytest.raises(OSError, match=r"a\.bin.*cut off"):
        read_scan(tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes(b"")
    assert read_scan(tmp_path / "b.bin").shape == (0, 4)
    np.save(tmp_path / "c.npy", np.zeros((3, 2)))
    with pytest.raises(OSError, match="x, y, z"):
        read_scan(tmp_path / "c.npy")
    pcd(tmp_path / "d.pcd", cloud(0), "binary")
    (tmp_path / "d.pcd").write_bytes((tmp_path / "d.pcd").read_bytes()[:-5])
    with pytest.raises(OSError, match=r"d\.pcd.*cut off"):
        read_scan(tmp_path / "d.pcd")
    pcd(tmp_path / "e.pcd", cloud(0), "binary_compressed")
    with pytest.raises(OSError, match="save it as binary"):
        read_scan(tmp_path / "e.pcd")
    pcd(tmp_path / "f.pcd", cloud(0), "binary", "a x y b")
    with pytest.raises(OSError, match="without x, y and z"):
        read_scan(tmp_path / "f.pcd")
    pcd(tmp_path / "h.pcd", cloud(0), "binary")
    whole = (tmp_path / "h.pcd").read_bytes()
    for line, changed, reason in (
        (b"TYPE F F F F\n", b"", "has no TYPE"),
        (b"POINTS 20\n", b"", "has no POINTS"),
        (b"TYPE F F F F", b"TYPE F F F Q", "of a known kind"),
        (b"SIZE 4 4 4 4", b"SIZE 4 4 4 3", "of a known kind"),
        (b"POINTS 20", b"POINTS 9" + b"9" * 15, "20 of 9+ points are there"),
        (b"POINTS 20", b"POINTS -3", "of -3 points are there"),
    ):
        (tmp_path / "h.pcd").write_bytes(whole.replace(line, changed))
        with pytest.raises(OSError, match=rf"h\.pcd.*{reason}"):
            read_scan(tmp_path / "h.pcd")
    (tmp_path / "g.pcd").write_bytes(b"FIELDS x y z\n")
    with pytest.raises(OSError, match="no end"):
        read_scan(tmp_path / "g.pcd")


def test_a_task_for_pictures_says_that_it_gets_scans() -> None:
    task = registry.load("tasks", "vot")(size="tiny", image=64)
    session = Engine(task, "cpu").session({0: Target(ids=np.array([1]), boxes=np.array([[1.0, 1, 8, 8]]))})
    with pytest.raises(ValueError, match="vot goes through pictures, and frame 0 is a scan"):
        session.push(0, cloud(0))


def test_real_scans(test_data: Path) -> None:
    folder = next((test_data / "data" / "KITTI-tracking" / "training" / "velodyne").iterdir())
    video = Video(folder)
    assert (video.kind, len(video)) == ("scan", 70)
    assert video[0].shape[1] == 4
    assert np.isfinite(video[0]).all()
