"""nuScenes as 3-D single-object trackers are judged by it: key frames of the top scanner, in world coordinates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dropmae.benchmarks._onepass3d import Boxes, OnePass3D, Tracklet
from dropmae.opening import open_file
from dropmae.video.scans import Recording

SPLITS = {
    "val": "3 12-18 35-36 38-39 92-110 221 268-278 329-332 344-346 519-524 552-565 625-627 629-630 632-638 770-771 "
    "775 777-778 780-784 794-800 802 904-917 919-931 962-963 966-969 971-972 1059-1073",
    "train": "4-11 19-34 120-135 138-139 149-152 154-155 157-160 177-185 187-188 218-220 222 224-253 328 376-381 "
    "383-386 388-403 405-408 410-419 440-456 499-502 504-515 517-518 525-539 541-546 584-600 639-664 695-698 700-701 "
    "703-719 726-728 730-731 733-738 786-787 789-792 803-806 808-813 815-817 819-822 847-856 858 860-866 992 994-1010 "
    "1044-1058 1106-1110",
    "mini_val": "103 916",
    "mini_train": "61 553 655 757 796 1077 1094 1100",
}
"""Numbers of the scenes: the data set's own val, and of its train the half that is for trackers (`train_track`)."""
GROUPS = {
    "vehicle.car": "Car",
    "human.pedestrian.adult": "Pedestrian",
    "human.pedestrian.child": "Pedestrian",
    "human.pedestrian.construction_worker": "Pedestrian",
    "human.pedestrian.police_officer": "Pedestrian",
    "vehicle.truck": "Truck",
    "vehicle.trailer": "Trailer",
    "vehicle.bus.bendy": "Bus",
    "vehicle.bus.rigid": "Bus",
}
TABLES = (
    "scene", "sample", "sample_data", "sample_annotation", "instance", "category", "calibrated_sensor", "sensor",
    "ego_pose",
)  # fmt: skip


@dataclass(kw_only=True)
class NuScenes3D(OnePass3D):
    """nuScenes: `root` holds samples/ and the tables, v1.0-trainval/ or v1.0-mini/.

    Splits are val (mini_val, where only the small part is there), train and mini_train. Scans are moved to the world,
    so boxes are in its coordinates, too. An object needs a point in its first box, but for training.
    """

    TITLE = "nuScenes"
    categories: tuple[str, ...] = ("Car", "Pedestrian", "Truck", "Trailer", "Bus")
    """Groups of classes that are followed."""

    def tracklets(self, root: Path, split: str | None = None) -> list[Tracklet]:
        """Every object of a class over the key frames of a scene that show it."""
        version = next((one for one in ("v1.0-trainval", "v1.0-mini") if (root / one).is_dir()), None)
        if version is None:
            raise FileNotFoundError(f"{root}: holds neither v1.0-trainval nor v1.0-mini, the folder of tables")
        split = split or ("val" if version == "v1.0-trainval" else "mini_val")
        if split not in SPLITS:
            raise ValueError(f"nuScenes has no split {split!r}; there are: {', '.join(SPLITS)}")
        tables = {name: table(root / version / f"{name}.json") for name in TABLES}
        try:
            return self.objects(root, tables, scene_numbers(SPLITS[split]), untold="train" in split)
        except (KeyError, TypeError, ValueError) as error:
            raise OSError(f"{root / version}: the tables do not fit together ({error})") from None

    def objects(self, root: Path, tables: dict[str, Any], scenes: set[int], untold: bool) -> list[Tracklet]:
        """The tracklets of some scenes; with `untold` also those without a point in the first box."""
        names = {token: row["name"] for token, row in tables["category"].items()}
        groups = {token: GROUPS.get(names[row["category_token"]]) for token, row in tables["instance"].items()}
        channels = {token: row["channel"] for token, row in tables["sensor"].items()}
        mounted = tables["calibrated_sensor"]
        chosen = {token: row for token, row in tables["scene"].items() if int(row["name"].split("-")[1]) in scenes}
        moments = {token: row["timestamp"] for token, row in tables["sample"].items() if row["scene_token"] in chosen}
        scans = {
            row["sample_token"]: (
                str(root / row["filename"]),
                pose(tables["ego_pose"][row["ego_pose_token"]]) @ pose(mounted[row["calibrated_sensor_token"]]),
            )
            for row in tables["sample_data"].values()
            if row["is_key_frame"] and row["sample_token"] in moments
            if channels[mounted[row["calibrated_sensor_token"]]["sensor_token"]] == "LIDAR_TOP"
        }
        found: dict[str, list[Any]] = {}
        for row in tables["sample_annotation"].values():
            if row["sample_token"] in moments and groups[row["instance_token"]] in self.categories:
                found.setdefault(row["instance_token"], []).append(row)
        made = []
        for token, rows in found.items():
            rows.sort(key=lambda row: moments[row["sample_token"]])
            if not untold and rows[0]["num_lidar_pts"] < 1:
                continue
            files, poses = zip(*(scans[row["sample_token"]] for row in rows))
            category = str(groups[token])
            boxes = np.array([[*row["translation"], *row["size"], heading(row["rotation"])] for row in rows], float)
            scene = chosen[tables["sample"][rows[0]["sample_token"]]["scene_token"]]["name"]
            source = Recording(files, columns=5, poses=np.stack(poses))
            made.append(Tracklet(f"{category}/{scene}-{token}", source, Boxes(boxes, category)))
        if not made:
            raise FileNotFoundError(f"{root}: no scene of this split with a {' or '.join(self.categories)}")
        return sorted(made, key=lambda one: one.name)


def table(path: Path) -> dict[str, Any]:
    """{token: row} of a table; OSError where it is none."""
    with open_file(path) as stream:
        try:
            return {row["token"]: row for row in json.load(stream)}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise OSError(f"{path}: no table of nuScenes ({type(error).__name__}: {error})") from None


def scene_numbers(text: str) -> set[int]:
    """The numbers in a list such as "3 12-18"."""
    ends = [[int(end) for end in part.split("-")] for part in text.split()]
    return {number for pair in ends for number in range(pair[0], pair[-1] + 1)}


def pose(row: Any) -> np.ndarray:
    """float64 [4, 4] of a row with a translation and a rotation, a quaternion w x y z."""
    w, x, y, z = np.array(row["rotation"], float) / np.linalg.norm(row["rotation"])
    made = np.eye(4)
    made[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    made[:3, 3] = row["translation"]
    return made


def heading(rotation: Any) -> float:
    """Yaw of a quaternion w x y z."""
    turned = pose({"rotation": rotation, "translation": [0, 0, 0]})
    return float(np.arctan2(turned[1, 0], turned[0, 0]))
