"""Modules that have moved are found under their old names, for one version."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import dropmae
from dropmae._moved import MOVED

SOURCE = Path(dropmae.__file__).parent


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_gives_the_very_module(old: str) -> None:
    new = importlib.import_module(MOVED[old])
    before = new.__spec__
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]};") as caught:
        assert importlib.import_module(old) is new
    assert caught[0].filename != importlib.import_module("dropmae._moved").__file__
    assert sys.modules[old] is new
    assert new.__spec__ is before
    assert new.__name__ == MOVED[old]


def test_nothing_stands_where_something_has_moved_from() -> None:
    words = [old.split(".")[1:] for old in MOVED]
    assert not [place for place in words if SOURCE.joinpath(*place).with_suffix(".py").is_file()]


def test_names_of_classes_in_old_modules() -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from dropmae.networks.vit import Encoder\n"
        "from dropmae.networks import crops, vit\n"
        "from dropmae.data.pairs import BoxTracks, causal_pair, tracks_of\n"
        "import dropmae.nn.vit, dropmae.tasks.vot.crops, dropmae.data.boxtracks\n"
        "assert Encoder is dropmae.nn.vit.Encoder is vit.Encoder\n"
        "assert crops is dropmae.tasks.vot.crops\n"
        "assert BoxTracks is dropmae.data.boxtracks.BoxTracks\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pickles_that_name_old_modules() -> None:
    sizes = importlib.import_module("dropmae.nn.vit").SIZES
    size = next(iter(sizes.values()))
    text = pickle.dumps(size, protocol=0)
    old = text.replace(b"dropmae.nn.vit", b"dropmae.networks.vit")
    assert old != text
    assert pickle.loads(old) == size
    assert type(pickle.loads(old)) is type(size)


def test_the_finder_costs_no_torch() -> None:
    code = "import dropmae, sys; assert dropmae.VERBS and not {'torch', 'numpy'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_unknown_names_stay_unknown() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("dropmae.networks.nothing")
