"""A path out of a table is an attack until shown otherwise."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import SpecError, StorageError, Unattachable
from pipeline.storage.attachments import Shelf
from tests.descriptors import open_under

CAP = 1_000
LONG_AGO_NS = 1_000_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"inside")
    (folder / "sub/b.png").write_bytes(b"below")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "images-too").mkdir()
    (tmp_path / "images-too/c.png").write_bytes(b"outside")
    return folder


@pytest.fixture
def shelf(root: Path) -> Shelf:
    return Shelf(str(root), CAP)


def test_a_file_below_the_root_is_read_whole(shelf: Shelf, root: Path) -> None:
    assert shelf.read("a.png") == b"inside"
    assert shelf.read("sub/../sub/./b.png") == b"below"
    assert shelf.read(str(root / "a.png")) == b"inside"
    (root / "träume 🌙.png").write_bytes(b"named")
    assert shelf.read("träume 🌙.png") == b"named"
    (root / "full").write_bytes(b"x" * CAP)
    assert shelf.read("full") == b"x" * CAP


def test_a_link_that_stays_inside_is_followed(shelf: Shelf, root: Path) -> None:
    (root / "link.png").symlink_to("sub/b.png")
    (root / "folder").symlink_to(root / "sub")
    assert shelf.read("link.png") == shelf.read("folder/b.png") == b"below"


def test_the_root_itself_may_be_a_link(root: Path) -> None:
    (root.parent / "alias").symlink_to(root)
    shelf = Shelf(str(root.parent / "alias"), CAP)
    assert shelf.read("a.png") == shelf.read(str(root / "a.png")) == b"inside"


def _make_fifo(root: Path) -> None:
    os.mkfifo(root / "pipe")


def _make_socket(root: Path) -> None:
    here = Path.cwd()
    os.chdir(root)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket")
    finally:
        os.chdir(here)


def _link_out(root: Path) -> None:
    (root / "out.png").symlink_to(root.parent / "secret")


def _folder_link_out(root: Path) -> None:
    (root / "up").symlink_to("..")


def _link_to_device(root: Path) -> None:
    (root / "zero").symlink_to("/dev/zero")


def _link_in_a_circle(root: Path) -> None:
    (root / "loop").symlink_to("loop")


def _make_large(root: Path) -> None:
    (root / "large").write_bytes(b"x" * (CAP + 1))


def _make_empty(root: Path) -> None:
    (root / "empty").write_bytes(b"")


def _nothing(root: Path) -> None:
    pass


ATTACKS: list[tuple[str, Callable[[Path], None], str]] = [
    ("../secret", _nothing, "leads out of"),
    ("sub/../../secret", _nothing, "leads out of"),
    ("../images-too/c.png", _nothing, "leads out of"),  # a name that begins like the root's
    ("/etc/passwd", _nothing, "leads out of"),
    ("/proc/self/environ", _nothing, "leads out of"),
    ("//etc/passwd", _nothing, "leads out of"),
    ("/dev/zero", _nothing, "leads out of"),
    ("out.png", _link_out, "leads out of"),
    ("up/secret", _folder_link_out, "leads out of"),
    ("zero", _link_to_device, "leads out of"),
    ("loop", _link_in_a_circle, "no regular file"),
    ("a.png\0.jpg", _nothing, "no file can have this name"),
    ("\0", _nothing, "no file can have this name"),
    ("\ud800", _nothing, "no file can have this name"),
    ("x" * 5_000, _nothing, "name too long"),
    ("a.png/b", _nothing, "No such file or directory|Not a directory"),
    ("gone.png", _nothing, "No such file"),
    ("", _nothing, "is a folder"),
    (".", _nothing, "is a folder"),
    ("sub", _nothing, "is a folder"),
    ("pipe", _make_fifo, "no regular file"),
    ("socket", _make_socket, "no regular file"),
    ("large", _make_large, "max_mb"),
    ("empty", _make_empty, "is empty"),
]


@pytest.mark.parametrize(("path", "prepare", "words"), ATTACKS, ids=[repr(path[:20]) for path, _, _ in ATTACKS])
def test_nothing_else_is_ever_read(
    shelf: Shelf, root: Path, path: str, prepare: Callable[[Path], None], words: str
) -> None:
    prepare(root)
    with pytest.raises(Unattachable, match=words) as caught:
        shelf.read(path)
    assert "outside" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_device_below_the_root_is_not_opened() -> None:
    with pytest.raises(Unattachable, match="no regular file"):
        Shelf("/dev", 1_000).read("null")


def test_a_fifo_frees_nobody_who_waits_to_write_into_it(shelf: Shelf, root: Path) -> None:
    """Opening it for reading would let a writer go on, and lose what it writes."""
    os.mkfifo(root / "pipe")
    opened = threading.Event()

    def write() -> None:
        with open(root / "pipe", "wb"):
            opened.set()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    for _ in range(20):
        with pytest.raises(Unattachable):
            shelf.read("pipe")
    assert not opened.is_set()
    with open(root / "pipe", "rb"):
        writer.join()


@pytest.mark.parametrize("swapped", ["sub", "sub/b.png"])
def test_a_link_swapped_in_after_the_look_leads_nowhere(
    root: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    """Between resolving the path and opening it anything may be replaced."""
    (root.parent / "b.png").write_bytes(b"outside")
    shelf = Shelf(str(root), CAP)
    resolve = os.path.realpath

    def swap(path: str) -> str:
        found = resolve(path)
        target = root / swapped
        target.rename(root / "moved")
        target.symlink_to(root.parent if swapped == "sub" else root.parent / "b.png")
        return found

    monkeypatch.setattr("pipeline.storage.attachments.os.path.realpath", swap)
    with pytest.raises(Unattachable):
        shelf.read("sub/b.png")


def test_a_file_that_grows_is_not_read_past_the_cap(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(str(root), CAP)
    read = os.read

    def grow(fd: int, size: int) -> bytes:
        with open(root / "a.png", "ab") as file:
            file.write(b"x" * 100_000)
        return read(fd, size)

    monkeypatch.setattr("pipeline.storage.attachments.os.read", grow)
    with pytest.raises(Unattachable, match="max_mb"):
        shelf.read("a.png")


def test_a_disk_that_fails_is_not_the_rows_fault(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(str(root), CAP)

    def fail(fd: int, size: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pipeline.storage.attachments.os.read", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        shelf.read("a.png")


def test_no_descriptor_is_left_open(shelf: Shelf, root: Path) -> None:
    os.mkfifo(root / "pipe")
    before = open_under(root)
    for path in ("a.png", "sub/b.png", "pipe", "gone/x", "sub/gone", "../secret") * 5:
        try:
            shelf.read(path)
        except Unattachable:
            continue
    assert open_under(root) == before


@pytest.mark.parametrize("name", ["gone", "a.png"])
def test_a_root_that_is_no_folder_is_a_mistake_of_the_spec(root: Path, name: str) -> None:
    with pytest.raises(SpecError, match=r"attachments\.root"):
        Shelf(str(root / name), CAP)


def later(root: Path) -> int:
    """A time when all that was written has settled."""
    return max(os.stat(path).st_ctime_ns for path in root.rglob("*")) + 3_000_000_000


def test_equal_stamps_promise_equal_contents(shelf: Shelf, root: Path) -> None:
    paths = ["a.png", "sub/b.png", "gone.png", "bad\0name"]
    first = shelf.stamp(paths, later(root))
    assert first == shelf.stamp(paths, later(root)) != ""
    seen = {first, shelf.stamp(paths[:1], later(root)), shelf.stamp(paths[::-1], later(root))}
    times = os.stat(root / "a.png")
    (root / "a.png").write_bytes(b"INSIDE")  # as long, and with the old time
    os.utime(root / "a.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    seen.add(shelf.stamp(paths, later(root)))
    (root / "gone.png").write_bytes(b"came")
    seen.add(shelf.stamp(paths, later(root)))
    seen.add(Shelf(str(root), CAP + 1).stamp(paths, later(root)))
    assert len(seen) == 6


def test_nothing_is_promised_of_a_file_that_was_just_written(shelf: Shelf, root: Path) -> None:
    """Two writes within one tick of the file system's clock leave the same times."""
    now_ns = os.stat(root / "a.png").st_ctime_ns
    assert shelf.stamp(["a.png"], now_ns + 1_000_000) == ""
    assert shelf.stamp(["a.png"], later(root)) != ""
