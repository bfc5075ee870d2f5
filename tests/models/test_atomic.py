"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ghost_native.models.atomic import TEMPORARY, atomic_file, atomic_folder, clean, remove_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_the_one_before_it(tmp_path):
    path = tmp_path / "deep" / "a.json"
    for text in ("one", "two"):
        with atomic_file(path) as temporary:
            assert temporary.suffix == ".json"
            temporary.write_text(text)
        assert path.read_text() == text
    assert names(path.parent) == ["a.json"]


def test_a_file_has_the_permissions_of_an_ordinary_one(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_file(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    mode = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert mode[0] == mode[1]


def test_nothing_changes_after_an_exception(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")
    with pytest.raises(RuntimeError, match="broken"), atomic_file(path) as temporary:
        temporary.write_text("after")
        raise RuntimeError("broken")
    assert path.read_text() == "before" and names(tmp_path) == ["a"]
    with pytest.raises(RuntimeError, match="broken"), atomic_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("x")
        raise RuntimeError("broken")
    assert names(tmp_path) == ["a"]


def test_a_folder_is_refused_where_there_is_one(tmp_path):
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("x")
        assert not (tmp_path / "f").exists()
    assert names(tmp_path / "f") == ["x"]
    with pytest.raises(FileExistsError, match="there is something at"), atomic_folder(tmp_path / "f"):
        pass
    remove_folder(tmp_path / "f")
    assert names(tmp_path) == []


def test_clean_removes_what_a_killed_writer_left(tmp_path):
    (tmp_path / f"{TEMPORARY}half").mkdir()
    (tmp_path / f"{TEMPORARY}half" / "x").write_text("x")
    (tmp_path / f"{TEMPORARY}file").write_text("x")
    (tmp_path / "kept").write_text("x")
    clean(tmp_path)
    assert names(tmp_path) == ["kept"]
