"""Files that are there whole or not at all, whenever the process or the machine ends."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

CHUNK = 1 << 20  # bytes read at a time


class NotDurableError(OSError):
    """A file that is in its place, while the disk has not confirmed it: it is there, unless the machine dies."""


def write_durably(target: Path, scratch: Path, *content: bytes | memoryview) -> None:
    """Writes `content` to `target` by way of `scratch`; readers and crashes find either the old file or the new one.

    Raises NotDurableError if the file is in its place and the directory cannot be synced, and OSError if it is not.
    """
    with scratch.open("wb") as file:
        file.writelines(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(target)
    try:
        sync_folder(target.parent)
    except OSError as error:
        raise NotDurableError(error.errno, error.strerror, str(target)) from error


def sync_file(path: Path) -> None:
    """Waits until the disk has a file's content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the names in a folder."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def sync_tree(folder: Path) -> None:
    """Waits until the disk has everything in a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)
    sync_folder(folder)


def checksum_of(path: Path) -> int:
    """Returns the CRC-32 of a file."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
