"""Files are there whole or not at all."""

import pytest

from focal_mm.engine.errors import UserError
from focal_mm.engine.files import replacing


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as partial:
        partial.write_text("1")
        assert partial.suffix == ".txt"
        assert not path.exists()
    assert path.read_text() == "1"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    context = replacing(path)
    context.__enter__().write_text("new")
    assert not context.__exit__(KeyError, KeyError(), None)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/a\.txt cannot be written"):
        replacing(tmp_path / "file" / "a.txt").__enter__()
