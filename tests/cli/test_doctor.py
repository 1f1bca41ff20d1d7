"""`hermes3 doctor`: it finds what is wrong, and what it says mends it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hermes3 import _native
from hermes3.cli.doctor import machine
from tests.cli.conftest import SMOL
from tests.cli.program import QUICK, hermes3, inside, with_limits
from tests.weights.hub import fake_hub


@pytest.fixture(autouse=True)
def quick_and_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that take seconds to measure, or that other programs on this machine change."""
    with_limits(monkeypatch)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.5, 0.5))


def report(code: int) -> dict[str, Any]:
    done = inside("doctor", "--json")
    assert done.returncode == code, done.stdout
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    assert found["ok"] is (code == 0)
    return found


def damaged(path: Path) -> None:
    """One byte in the middle is another."""
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:50_000_000] + bytes([whole[50_000_000] ^ 1]) + whole[50_000_001:])


def test_all_is_well(smol: Path) -> None:
    found = report(0)
    assert found["wrong"] == []
    assert found["software"]["python"] == ".".join(map(str, sys.version_info[:3]))
    processor = found["processor"]
    assert (processor["isa"], processor["features"]) == (_native.isa(), _native.cpu_features())
    assert (processor["threads"], processor["read_bandwidth_gb_s"]) == (_native.threads(), 20.0)
    assert found["memory"]["fits"]["smol"] is True
    (file,) = found["models"]["files"]
    assert file.pop("is_sound") is True
    assert file == {"name": "smol", "path": str(smol), "size": SMOL.size, "state": "hash right"}
    assert found["models"]["default"] == "smol"


def test_for_people(smol: Path) -> None:
    done = inside("doctor")
    assert done.returncode == 0
    assert done.stdout.endswith("\nnothing is wrong\n")
    for text in (_native.isa(), "reads 20.0 GB/s", "98.4 MB, hash right", str(smol), "127.0.0.1:9"):
        assert text in done.stdout


def test_no_model_is_advice() -> None:
    assert {"what": "no model is on this machine yet", "mend": "hermes3 pull smol"} in report(0)["advice"]


def test_a_damaged_file_and_the_command_that_mends_it(
    smol: Path, smol_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(smol)
    done = inside("doctor")
    assert done.returncode == 1
    assert f"{SMOL.sha256:.12}... is right\n  hermes3 pull smol\n" in done.stdout
    assert done.stdout.endswith("\none thing is wrong\n")
    (wrong,) = report(1)["wrong"]
    with fake_hub.running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.repos[SMOL.repo] = {SMOL.file: smol_gguf.read_bytes()}
        assert inside(*wrong["mend"].split()[1:]).returncode == 0
    assert report(0)["models"]["files"][0]["state"] == "hash right"


def test_a_short_file(smol: Path) -> None:
    smol.unlink()
    smol.write_bytes(b"GGUF" + bytes(1000))
    (wrong,) = report(1)["wrong"]
    assert wrong == {"what": f"{smol} has 1004 bytes, {SMOL.size} are right", "mend": "hermes3 pull smol"}


def test_a_damaged_file_in_another_programs_cache(smol: Path, tmp_path: Path) -> None:
    """It is wrong while it is the one that would be taken, and does not matter beside a sound one."""
    commit, cache = "0" * 40, tmp_path / "cache" / "huggingface" / "hub"
    folder = cache / f"models--{SMOL.repo.replace('/', '--')}"
    other = folder / "snapshots" / commit / SMOL.file
    other.parent.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    shutil.copy(smol, other)
    damaged(other)
    states = [file["state"] for file in report(0)["models"]["files"]]
    assert states == ["hash right", "DAMAGED"]
    smol.unlink()
    (wrong,) = report(1)["wrong"]
    assert str(other) in wrong["what"]


def test_files_of_unknown_origin(home: Path, smol_gguf: Path) -> None:
    folder = home / "models" / "owner" / "repo"
    folder.mkdir(parents=True)
    (folder / "sound.gguf").symlink_to(smol_gguf)
    (folder / "broken.gguf").write_bytes(b"GGUF" + bytes(30))
    (folder / "big.gguf.0123456789abcdef.part").write_bytes(bytes(2000))
    found = report(1)
    states = {file["name"].rpartition(":")[2]: file["state"] for file in found["models"]["files"]}
    assert states == {"sound.gguf": "hash unknown", "broken.gguf": "CANNOT BE USED"}
    (wrong,) = found["wrong"]
    assert wrong["what"].startswith(f"{folder / 'broken.gguf'}: ")
    assert wrong["mend"] == "hermes3 pull hf:owner/repo:broken.gguf"
    mends = [advice["mend"] for advice in found["advice"]]
    assert {"hermes3 pull hf:owner/repo:sound.gguf", "hermes3 pull hf:owner/repo:big.gguf"} <= set(mends)


@pytest.mark.parametrize(
    ("env", "what", "mend"),
    [
        ({"HF_ENDPOINT": "huggingface.co"}, "HF_ENDPOINT is 'huggingface.co'", "unset HF_ENDPOINT"),
        ({"HF_HUB_OFFLINE": "1"}, "no model is on this machine", "HF_HUB_OFFLINE=0 hermes3 pull smol"),
        ({"HERMES3_HOME": "/dev/null/x"}, "/dev/null/x cannot be written to", "export HERMES3_HOME="),
    ],
)
def test_settings(env: dict[str, str], what: str, mend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    (wrong,) = report(1)["wrong"]
    assert what in wrong["what"]
    assert mend in wrong["mend"]


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**7))
    (wrong,) = report(1)["wrong"]
    assert "has 10.0 MB free, smol needs 165.5 MB" in wrong["what"]


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes3.engine.cache.available_memory", lambda: 10**8)
    found = report(1)
    assert [wrong["what"] for wrong in found["wrong"]] == [
        "no model fits into the 100.0 MB of memory that are available; end some program"
    ]
    assert set(found["memory"]["fits"].values()) == {False}
    assert "read_bandwidth_gb_s" not in found["processor"]  # there was not the memory to measure it


def test_a_busy_processor_and_small_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting = tmp_path / "enabled"
    setting.write_text("always madvise [never]\n")
    monkeypatch.setattr(machine, "HUGE_PAGES", setting)
    monkeypatch.setattr(os, "getloadavg", lambda: (2000.0, 0.5, 0.5))
    advice = " ".join(each["what"] for each in report(0)["advice"])
    assert "load 2000.0 on" in advice
    assert "huge pages are switched off" in advice


def test_instruction_sets() -> None:
    done = hermes3("doctor", HERMES3_ISA="mmx")
    assert done.returncode == 1
    assert "the compiled kernels do not load: HERMES3_ISA=mmx" in done.stdout
    assert "\n  unset HERMES3_ISA\n" in done.stdout
    if _native.available_isas() != ["scalar"]:
        done = hermes3("doctor", "--json", program=QUICK, HERMES3_ISA="scalar")
        assert "unset HERMES3_ISA" in [each["mend"] for each in json.loads(done.stdout)["advice"]]
        assert done.returncode == 0


def test_a_package_that_is_missing(smol: Path) -> None:
    """The rest of the report still comes."""
    program = """
import sys
from importlib import metadata
sys.modules["numpy"] = None
there = metadata.version
def version(name):
    if name == "numpy": raise metadata.PackageNotFoundError(name)
    return there(name) if name != "hermes3" else "1.0"
metadata.version = version
metadata.requires = lambda name: ["numpy>=1.26", "typer>=0.12", 'torch; extra == "test"']
from hermes3.cli import main; main()
"""
    done = hermes3("doctor", program=program)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "WRONG: numpy is not installed\n  pip install numpy\n" in done.stdout
    assert "torch" not in done.stdout
    assert str(smol) in done.stdout


def test_a_package_that_is_too_old() -> None:
    program = """
from importlib import metadata
there = metadata.version
metadata.version = lambda name: {"typer": "0.11.9", "hermes3": "1.0"}.get(name) or there(name)
metadata.requires = lambda name: ["numpy>=1.26", "typer>=0.12", 'rich>=99; extra == "test"']
from hermes3.cli import main; main()
"""
    done = hermes3("doctor", program=program)
    assert done.returncode == 1
    assert (
        "WRONG: typer 0.11.9 is installed, hermes3 needs >=0.12\n  pip install 'typer>=0.12'\n" in done.stdout
    )
    assert "rich" not in done.stdout
