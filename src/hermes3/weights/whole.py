"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from hermes3.errors import DiskSpaceError, FormatError


@contextmanager
def whole_file(path: Path, n_bytes: int) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when the block ends well and its bytes are on the disk.

    Args:
        n_bytes: that it will have.

    Raises:
        DiskSpaceError: there is no room for them; at the beginning or, where others write too, later.
        OSError: it cannot be written for another reason.
    """
    check_room(path.parent, n_bytes)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskSpaceError(f"{path.parent} became full while {path.name} was written") from error
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, n_bytes: int) -> Iterator[Path]:
    """A folder to fill, which gets its name when the block ends well; what exists already must be empty.

    Raises:
        DiskSpaceError, OSError: as ``whole_file``.
    """
    check_room(path.parent, n_bytes)
    part = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp makes it the owner's alone
        part.replace(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_room(folder: Path, n_bytes: int) -> None:
    """Whether so many bytes fit on the folder's disk.

    Raises:
        DiskSpaceError: they do not.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise DiskSpaceError(
            f"{n_bytes / 1e9:.2f} GB are needed on the disk of {folder}, {free / 1e9:.2f} GB are free"
        )


def write_checked(
    file: BinaryIO, name: str, data: NDArray[np.uint8] | Iterable[NDArray[np.uint8]], n_bytes: int
) -> None:
    """Writes a tensor's bytes, given at once or in parts.

    Raises:
        FormatError: they are not uint8, or not so many.
    """
    n_written = 0
    for part in [data] if isinstance(data, np.ndarray) else data:
        if part.dtype != np.uint8:
            raise FormatError(f"tensor {name} takes {n_bytes} bytes, got {part.size} of {part.dtype}")
        file.write(np.ascontiguousarray(part).data)
        n_written += part.size
    if n_written != n_bytes:
        raise FormatError(f"tensor {name} takes {n_bytes} bytes, got {n_written} of uint8")


def _sync_folder(folder: Path) -> None:
    """Has the new name on the disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
