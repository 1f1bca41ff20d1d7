"""Keys and values of beginnings on disk: a new process reads those of a tools prompt instead.

One file a beginning. Its name is a hash of all that its bytes depend on: the model's files, the kernels, the
type of the cache, and the ids. A file is hostile until its owner, its size, its head and its SHA-256 are
checked; one that fails is thrown away and its beginning is computed, which gives the same bits.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import struct
import tempfile
import time
from collections.abc import Iterable
from collections.abc import Sequence as Ids
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hermes3 import _native
from hermes3.errors import RequestError
from hermes3.weights.checkpoint import Checkpoint
from hermes3.weights.whole import check_room

Bytes = NDArray[np.uint8]

DEFAULT_BYTES = 4 << 30
ENDING, PARTIAL, ABANDONED_S = ".prefix", ".part", 3600
_MAGIC = b"hermes3 prefix 1"
_HEAD = struct.Struct("<16s32sQQ32s")  # magic, name, ids, bytes of a page, SHA-256 of all that follows
_SAMPLE, _N_SAMPLES = 4096, 256  # of a model's file: 1 MiB of 2 GB in 2 ms
_log = logging.getLogger(__name__)


class PrefixStore:
    """A folder of beginnings, all of one process's model. For one thread at a time.

    Args:
        folder: made where it is missing, for its owner alone.
        identity: of all that keys and values depend on beside the ids; see ``identity_of``.
        page_bytes, page_size: bytes and tokens of a page of the cache.
        most_bytes: of all files together; those not used for longest go.

    Raises:
        RequestError: the folder is none, or others than its owner may write to it.
    """

    def __init__(
        self, folder: Path, *, identity: bytes, page_bytes: int, page_size: int, most_bytes: int
    ) -> None:
        self._folder = folder
        self._identity = identity
        self._page_bytes = page_bytes
        self._page_size = page_size
        self._most_bytes = most_bytes
        _check_folder(folder)
        with suppress(OSError):
            for part in folder.glob(f"*{PARTIAL}"):
                if time.time() - part.lstat().st_mtime > ABANDONED_S:  # of a process that was killed
                    part.unlink(missing_ok=True)

    def has(self, ids: Ids[int]) -> bool:
        """Whether there is a file for these ids; it may still turn out to be of no use."""
        return self._path(ids).is_file()

    def load(self, ids: Ids[int]) -> Bytes | None:
        """The pages of a beginning.

        Args:
            ids: whole pages of them.

        Returns:
            uint8 (n_pages, page_bytes), or None where there is no such file, or a damaged one.
        """
        path = self._path(ids)
        try:
            pages = self._read(path, ids)
            os.utime(path)  # used last
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("%s is not used and thrown away: %s", path, error)
            with suppress(OSError):
                path.unlink()
            return None
        return pages

    def save(self, ids: Ids[int], pages: Iterable[Bytes]) -> None:
        """Writes a beginning, whole or not at all.

        Args:
            ids: whole pages of them.
            pages: uint8 (page_bytes,) each.

        Raises:
            OSError: it cannot be written; nothing is left of it.
            DiskSpaceError: there is no room on the disk.
        """
        body = _bytes_of(ids)
        n_bytes = _HEAD.size + len(body) + len(ids) // self._page_size * self._page_bytes
        if n_bytes > self._most_bytes:
            _log.warning("a beginning of %d bytes is not kept: prefix_bytes is %d", n_bytes, self._most_bytes)
            return
        self._evict(self._most_bytes - n_bytes)
        check_room(self._folder, n_bytes)
        handle, part = tempfile.mkstemp(suffix=PARTIAL, dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.seek(_HEAD.size)
                digest = hashlib.sha256(body)
                file.write(body)
                for page in pages:
                    digest.update(page.data)
                    file.write(page.data)
                file.seek(0)
                file.write(self._head(ids, digest.digest()))
            os.replace(part, self._path(ids))
        except BaseException:
            os.unlink(part)
            raise

    def _read(self, path: Path, ids: Ids[int]) -> Bytes:
        """
        Raises:
            ValueError: the file is not what it should be.
        """
        body = _bytes_of(ids)
        n_pages = len(ids) // self._page_size
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(handle, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not _is_own(status):
                raise ValueError("others than its owner may write to it")
            wanted = _HEAD.size + len(body) + n_pages * self._page_bytes
            if status.st_size != wanted:
                raise ValueError(f"it has {status.st_size} bytes, {wanted} are right")
            head, own = file.read(_HEAD.size), file.read(len(body))
            pages = np.empty((n_pages, self._page_bytes), np.uint8)
            view = pages.reshape(-1).data
            n_read = 0
            while n_read < len(view) and (n := file.readinto(view[n_read:])):
                n_read += n
        digest = hashlib.sha256(own)
        digest.update(view)
        if own != body or n_read != len(view) or head != self._head(ids, digest.digest()):
            raise ValueError("its content is damaged")
        return pages

    def _head(self, ids: Ids[int], digest: bytes) -> bytes:
        return _HEAD.pack(_MAGIC, self._name(ids), len(ids), self._page_bytes, digest)

    def _name(self, ids: Ids[int]) -> bytes:
        return hashlib.sha256(self._identity + _bytes_of(ids)).digest()

    def _path(self, ids: Ids[int]) -> Path:
        return self._folder / f"{self._name(ids).hex()}{ENDING}"

    def _evict(self, most_bytes: int) -> None:
        """Removes the files that were not used for longest, until the others have at most so many bytes."""
        found = []
        for path in self._folder.glob(f"*{ENDING}"):
            with suppress(FileNotFoundError):  # another process was quicker
                status = path.lstat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= most_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


def identity_of(checkpoint: Checkpoint, kv_dtype: str) -> bytes:
    """All that keys and values of given ids depend on: weights, kernels, this package, the cache's type.

    Of the model's files it is sizes, times of change and 256 samples of each: to read the whole of them would
    take as long as to load them.
    """
    digest = hashlib.sha256()
    digest.update(f"{_version()} {_native.isa()} {kv_dtype} {_native.PAGE} {checkpoint.config!r}".encode())
    digest.update(hashlib.sha256(Path(_native.__file__).read_bytes()).digest())
    for path in sorted({entry.path for entry in checkpoint.entries.values()}):
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest.update(f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}".encode())
            step = max(_SAMPLE, status.st_size // _N_SAMPLES)
            for offset in range(0, status.st_size, step):
                file.seek(offset)
                digest.update(file.read(_SAMPLE))
    return digest.digest()


def _bytes_of(ids: Ids[int]) -> bytes:
    return np.array(ids, "<i4").tobytes()


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        message = f"prefix_folder {folder} cannot be made: {error}"
        raise RequestError(message, param="prefix_folder") from error
    if not _is_own(status):
        raise RequestError(
            f"prefix_folder {folder} belongs to others, or others may write to it; give one of your own "
            f"(chmod go-w {folder})",
            param="prefix_folder",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"prefix_folder {folder} cannot be written to", param="prefix_folder")


def _is_own(status: os.stat_result) -> bool:
    """Whether nobody but this user may have written it."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _version() -> str:
    try:
        return version("hermes3")
    except PackageNotFoundError:
        return "sources"
