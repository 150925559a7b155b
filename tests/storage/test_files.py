from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.storage.files import ASIDE, Files, content, create, discard, make_folder, write_stream, write_whole
from tests.rigs.disk import Disk, Fault


@pytest.mark.parametrize("fault", [Fault(kind, 1, "EIO") for kind in ("open", "write", "fsync", "rename")])
def test_a_file_that_cannot_be_written_stays_as_it_was(fault: Fault, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_bytes(b"before")
    with pytest.raises(OSError):
        write_whole(Disk(str(tmp_path), fault), str(path), b"after")
    assert path.read_bytes() == b"before"
    write_whole(Disk(str(tmp_path)), str(path), b"after")
    assert path.read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["job.json"]


def test_a_write_taken_in_pieces_is_finished(tmp_path: Path) -> None:
    write_whole(Disk(str(tmp_path), Fault("write", 1, "short")), str(tmp_path / "a"), b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


@pytest.mark.fault("C12", "S16")
def test_a_planted_link_is_neither_followed_nor_trusted(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / f"a{ASIDE}").symlink_to(tmp_path / "victim")
    (tmp_path / "b").symlink_to(tmp_path / "victim")
    write_whole(Files(), str(tmp_path / "a"), b"new")
    with pytest.raises(FileExistsError):
        create(Files(), str(tmp_path / "b"))
    with pytest.raises(OSError, match="symbolic"):
        Files().read(str(tmp_path / "b"))
    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert not (tmp_path / "a").is_symlink()


@pytest.mark.fault("S15")
def test_what_is_made_is_for_the_owner_alone(tmp_path: Path) -> None:
    make_folder(Files(), str(tmp_path / "out"))
    write_whole(Files(), str(tmp_path / "out/a"), b"")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "out/a").stat().st_mode) == 0o600


def test_the_name_of_a_new_folder_is_synced_and_so_are_those_above(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    make_folder(disk, str(tmp_path / "a/b/c"))
    synced = [os.path.relpath(op.path, tmp_path) for op in disk.ops if op.kind == "sync_folder"]
    assert synced == [".", "a", "a/b"]


def test_a_stream_that_breaks_off_leaves_the_old_file(tmp_path: Path) -> None:
    def pieces() -> Iterator[tuple[bytes, int]]:
        yield b"one", 1
        raise ValueError("the source broke")

    path = tmp_path / "results.csv"
    assert write_stream(Files(), str(path), iter([(b"a", 1), (b"b", 2)])) == 3
    with pytest.raises(ValueError, match="broke"):
        write_stream(Files(), str(path), pieces())
    assert path.read_bytes() == b"ab"
    assert os.listdir(tmp_path) == ["results.csv"]


def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert content(Files(), str(tmp_path / "none")) is None
    assert Files().names(str(tmp_path / "none")) == []
    discard(Files(), str(tmp_path / "none"))
