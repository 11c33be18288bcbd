"""Where the unit goes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from jobmaster.errors import ConfigurationError, HostError
from jobmaster.unit.installation import install, require_importable
from jobmaster.unit.text import NAME

if TYPE_CHECKING:
    from pathlib import Path


def test_a_unit_is_written_once(tmp_path: Path) -> None:
    """It is there, for all to read; the same one again is no difference, and nothing else is left."""
    assert install("[Unit]\n", tmp_path, may_replace=False)
    assert not install("[Unit]\n", tmp_path, may_replace=False)
    (file,) = tmp_path.iterdir()
    assert (file.name, file.read_text(), file.stat().st_mode & 0o777) == (NAME, "[Unit]\n", 0o644)


def test_another_unit_is_not_replaced(tmp_path: Path) -> None:
    """It stays, unless it is said that it may go."""
    (tmp_path / NAME).write_text("mine")
    with pytest.raises(ConfigurationError, match=r"is there and differs: .*--force replaces it"):
        install("new", tmp_path, may_replace=False)
    assert (tmp_path / NAME).read_text() == "mine"
    assert install("new", tmp_path, may_replace=True)
    assert (tmp_path / NAME).read_text() == "new"


def test_a_masked_unit(tmp_path: Path) -> None:
    """A link differs, whatever is behind it; replacing it leaves that alone."""
    target = tmp_path / "target"
    target.write_text("new")
    folder = tmp_path / "units"
    folder.mkdir()
    (folder / NAME).symlink_to(target)
    with pytest.raises(ConfigurationError, match="differs"):
        install("new", folder, may_replace=False)
    install("newer", folder, may_replace=True)
    assert (target.read_text(), (folder / NAME).is_symlink()) == ("new", False)


def test_a_host_without_systemd(tmp_path: Path) -> None:
    """A folder that is not there is not made."""
    with pytest.raises(ConfigurationError, match="is systemd there"):
        install("new", tmp_path / "none", may_replace=False)
    assert list(tmp_path.iterdir()) == []


def test_a_unit_that_cannot_be_written(tmp_path: Path) -> None:
    """The kernel's reason is told, and nothing is left."""
    (tmp_path / NAME).mkdir()  # which no file replaces
    with pytest.raises(HostError, match=r"jobmaster\.service cannot be written: Is a directory"):
        install("new", tmp_path, may_replace=True)
    assert [each.name for each in tmp_path.iterdir()] == [NAME]


def test_an_interpreter_without_jobmaster(tmp_path: Path) -> None:
    """One that finds it only here is refused, with the remedy; this one is not."""
    require_importable(sys.executable)
    with pytest.raises(ConfigurationError, match=r"does not find jobmaster from elsewhere: install"):
        require_importable("/usr/bin/python3")
    with pytest.raises(ConfigurationError, match="cannot be run"):
        require_importable(str(tmp_path / "none"))
