"""A file or folder is written whole, or stays as it was."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from regard import RegardError
from regard.files import written_aside


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write(aside: Path, text: str, as_folder: bool) -> None:
    if as_folder:
        aside.mkdir()
        (aside / "part").write_text(text)
    else:
        aside.write_text(text)


@pytest.mark.parametrize("as_folder", [False, True], ids=["file", "folder"])
def test_the_new_takes_the_place_of_the_old(tmp_path, as_folder):
    path = tmp_path / "deep" / "thing"
    for text in ("first", "second"):
        with written_aside(path) as aside:
            write(aside, text, as_folder)
        assert contents(tmp_path / "deep") == {"thing/part" if as_folder else "thing": text}


@pytest.mark.parametrize("as_folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), RegardError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("a bug"), ValueError),
    ],
    ids=["full disk", "Ctrl-C", "bug"],
)
def test_what_is_interrupted_leaves_the_old_and_no_rest(tmp_path, as_folder, failure, told):
    path = tmp_path / "thing"
    write(path, "old", as_folder)
    before = contents(tmp_path)
    with pytest.raises(told), written_aside(path) as aside:
        write(aside, "half", as_folder)
        raise failure
    assert contents(tmp_path) == before


def test_a_folder_that_cannot_take_the_place_of_the_old_leaves_it(tmp_path, monkeypatch):
    path, rename = tmp_path / "thing", Path.replace
    write(path, "old", True)

    def refuse(self, target):
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(RegardError, match="nothing was changed"), written_aside(path) as aside:
        write(aside, "new", True)
    assert contents(tmp_path) == {"thing/part": "old"}


def test_a_full_disk_is_told_in_one_line(tmp_path):
    told = r"cannot write .*thing: No space left on device; nothing was changed"
    with pytest.raises(RegardError, match=told), written_aside(tmp_path / "thing"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RegardError, match="cannot write"), written_aside(tmp_path / "file" / "thing") as aside:
        aside.write_text("")


def test_the_rest_of_a_killed_writer_is_cleared_away(tmp_path):
    path = tmp_path / "thing"
    write(path, "old", True)
    code = (
        "import os, sys; from pathlib import Path; from regard.files import written_aside\n"
        "with written_aside(Path(sys.argv[1])) as aside:\n"
        " aside.mkdir()\n (aside / 'part').write_text('half')\n os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert (path / "part").read_text() == "old"
    with written_aside(path) as aside:
        write(aside, "new", True)
    assert contents(tmp_path) == {"thing/part": "new"}


def test_a_disk_that_is_really_full(tmp_path):
    """The system refuses the write: files of the process may not grow over 20 kB."""
    path = tmp_path / "thing"
    path.write_text("old")
    code = (
        "import resource, sys; from pathlib import Path; from regard.files import written_aside\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "with written_aside(Path(sys.argv[1])) as aside: aside.write_bytes(bytes(1_000_000))"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert "RegardError: cannot write" in ended.stderr
    assert contents(tmp_path) == {"thing": "old"}


def test_a_write_that_was_killed_between_its_two_renames_is_mended(tmp_path):
    (tmp_path / ".model.old").mkdir()
    (tmp_path / ".model.old" / "config.json").write_text("kept")
    with pytest.raises(KeyError), written_aside(tmp_path / "model"):
        raise KeyError
    assert (tmp_path / "model" / "config.json").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
