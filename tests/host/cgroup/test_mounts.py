"""Finding the cgroup v2 mount and a process in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.host.cgroup.mounts import (
    Mount,
    find_cgroup2,
    parse_mountinfo,
    parse_own_path,
    read_mounts,
    read_own_path,
)

UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)


def _cgroup2(text: str) -> Mount | None:
    return find_cgroup2(parse_mountinfo(text))


def _mount(root: str = "/") -> Mount:
    return Mount(device="0:26", root=root, mount_point=Path("/cg"), filesystem="cgroup2", source="cgroup2")


@pytest.mark.parametrize(("text", "mount_point"), [(UNIFIED, "/sys/fs/cgroup"), (HYBRID, "/sys/fs/cgroup/unified")])
def test_the_mount_is_found_where_it_is(text: str, mount_point: str) -> None:
    """Unified and hybrid hosts have it at different places; v1 mounts are passed over."""
    mount = _cgroup2(text)
    assert mount is not None
    assert (mount.mount_point, mount.root) == (Path(mount_point), "/")
    assert mount.device == text.splitlines()[-1].split()[2]


def test_a_host_without_cgroup2() -> None:
    """A host with v1 alone has no mount to find."""
    assert _cgroup2("".join(HYBRID.splitlines(keepends=True)[:2])) is None
    assert _cgroup2("") is None


def test_the_whole_hierarchy_goes_before_a_part() -> None:
    """A bind mount of a part of the hierarchy is taken only where the whole is not mounted."""
    part = "50 23 0:26 /part /mnt/part rw - cgroup2 cgroup2 rw\n"
    whole = _cgroup2(part + UNIFIED)
    alone = _cgroup2(part)
    assert whole is not None
    assert whole.mount_point == Path("/sys/fs/cgroup")
    assert alone is not None
    assert alone.root == "/part"


def test_escaped_characters_are_restored() -> None:
    """Spaces, tabs, newlines and backslashes in a mount point are octal in mountinfo."""
    mount = _cgroup2("30 23 0:26 / /my\\040cg\\011\\012\\134x rw - cgroup2 no\\040name rw\n")
    assert mount is not None
    assert mount.mount_point == Path("/my cg\t\n\\x")
    assert mount.source == "no name"


def test_optional_fields_and_an_empty_source() -> None:
    """Any number of optional fields is passed over, and an empty source keeps its place."""
    text = "30 23 0:26 / /a rw shared:4 master:2 - cgroup2  rw\n"
    (mount,) = parse_mountinfo(text)
    assert (mount.filesystem, mount.source) == ("cgroup2", "")


def test_a_path_with_an_exotic_line_separator_stays_whole() -> None:
    """Only a newline ends a line: other separators may be part of a path."""
    (mount,) = parse_mountinfo("30 23 0:26 / /a\x0bb\x1cc\u2028d rw - cgroup2 cgroup2 rw\n")
    assert mount.mount_point == Path("/a\x0bb\x1cc\u2028d")


def test_own_path_is_the_v2_line() -> None:
    """On a hybrid host the line with hierarchy 0 counts, not that of a v1 controller."""
    assert parse_own_path("9:name=systemd:/x\n4:memory:/y\n0::/user.slice/a:b\n") == "/user.slice/a:b"
    assert parse_own_path("4:memory:/y\n") is None


def test_a_path_is_seen_through_the_mount() -> None:
    """The root of a mount is taken off the path; what lies outside is not visible."""
    assert _mount().folder_of("/") == Path("/cg")
    assert _mount().folder_of("/a/b") == Path("/cg/a/b")
    assert _mount("/docker/1").folder_of("/docker/1") == Path("/cg")
    assert _mount("/docker/1").folder_of("/docker/1/x") == Path("/cg/x")
    assert _mount("/docker/1").folder_of("/docker/12") is None
    assert _mount("/docker/1").folder_of("/") is None


def test_paths_outside_the_namespace_are_not_visible() -> None:
    """The kernel shows what lies outside the cgroup namespace with "..": that names nothing here."""
    assert _mount().folder_of("/../other") is None
    assert _mount("/..").folder_of("/../x") is None


def test_this_process_is_found() -> None:
    """The readers give what the kernel says of this very process."""
    assert any(mount.mount_point == Path("/proc") for mount in read_mounts())
    path = read_own_path()
    assert path is None or path.startswith("/")


@given(st.text(alphabet=st.sampled_from("ab /-\\0127\n:")))
def test_any_text_is_parsed(text: str) -> None:
    """A line of another shape is left out and never an error."""
    assert len(parse_mountinfo(text)) <= text.count("\n") + 1
    own = parse_own_path(text)
    assert own is None or own.startswith("/")
