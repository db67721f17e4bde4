"""What was found out about files is kept, for as long as they do not change."""

import os

import pytest
from PIL import Image

from focal_mm.engine.checks import images


@pytest.fixture
def paths(tmp_path, monkeypatch) -> list[str]:
    """Three images, a cache of their own, and a list of what is really read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "CACHED_FROM", 3)
    (tmp_path / "data").mkdir()
    names = [str(tmp_path / "data" / f"{index}.png") for index in range(3)]
    for name in names:
        Image.new("L", (4, 3), 7).save(name)
    return names


@pytest.fixture
def read(monkeypatch) -> list[str]:
    seen = []
    look = images.look

    def record(path: str, is_label_map: bool = False) -> images.Look:
        seen.append(path)
        return look(path, is_label_map)

    monkeypatch.setattr(images, "look", record)
    return seen


def test_only_what_has_changed_is_read_again(paths, read, tmp_path):
    first = images.look_at_all(paths)
    assert sorted(read) == paths
    assert first == {path: images.Look("", 4, 3) for path in paths}
    read.clear()
    assert images.look_at_all(paths) == first
    assert read == []

    Image.new("L", (5, 5)).save(paths[0])
    os.remove(paths[1])
    found = images.look_at_all([*paths, paths[0]])
    assert sorted(read) == paths[:2]
    assert found[paths[0]] == images.Look("", 5, 5)
    assert found[paths[1]] == images.Look("missing")

    read.clear()
    assert images.look_at_all(paths, label_maps=paths)[paths[2]].labels == (7,)
    assert sorted(read) == paths


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"images": 3}'])
def test_a_damaged_cache_is_made_anew(paths, read, tmp_path, text):
    images.look_at_all(paths)
    (cache,) = (tmp_path / "cache" / "focal_mm").iterdir()
    cache.write_text(text)
    read.clear()
    images.look_at_all(paths)
    assert sorted(read) == paths
    read.clear()
    images.look_at_all(paths)
    assert read == []


def test_few_files_and_a_folder_that_cannot_be_written(paths, tmp_path, capsys):
    assert images.look_at_all(paths[:2])
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache").touch()
    assert len(images.look_at_all(paths)) == 3
    assert "all is read again next time" in " ".join(capsys.readouterr().err.split())
