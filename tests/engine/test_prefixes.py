"""Beginnings on disk: the same bits from a new engine, whatever lies there, and no more than may be."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes3.engine import prefix_store
from hermes3.engine.engine import Engine
from hermes3.engine.sampling import SamplingParams
from hermes3.engine.sequence import Sequence
from hermes3.errors import RequestError
from hermes3.weights.checkpoint import open_checkpoint
from hermes3.weights.quant import GGMLType
from tests.engine.runs import model_file, random_ids, run

N_SYSTEM = 200
FILE_BYTES = 96 + N_SYSTEM // 32 * 32 * (4 + 2 * 2 * 2 * 32 * 2)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model"), GGMLType.Q4_0)


def engine_of(path: Path, folder: Path | None, **options: Any) -> Engine:
    return Engine(open_checkpoint(path), n_ctx=600, n_sequences=4, prefix_folder=folder, **options)


def ask(engine: Engine, question: int, system: int = 1) -> tuple[Sequence, list[Any]]:
    """One prompt over a system turn of 200 ids, as the hall asks; its rows of logits."""
    ids = random_ids(system, N_SYSTEM) + random_ids(question, 30)
    engine.recall(ids[:N_SYSTEM])
    sequence = engine.add(ids, SamplingParams(temperature=0, max_tokens=12, ignore_eos=True), None, N_SYSTEM)
    rows: list[Any] = []
    sample = sequence.sampler.sample
    sequence.sampler.sample = lambda row, mask: rows.append(row.copy()) or sample(row, mask)  # type: ignore
    run(engine)
    engine.settle()
    assert engine.n_free_kv_tokens == engine.n_kv_tokens
    return sequence, rows


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)


@pytest.mark.parametrize("kv_dtype", ["f16", "f32", "q8_0"])
def test_a_new_engine_reads_what_an_earlier_one_computed(path: Path, tmp_path: Path, kv_dtype: Any) -> None:
    folder = tmp_path / "new" / "prefixes"
    plain, expected = ask(engine_of(path, None, kv_dtype=kv_dtype), 5)
    first, _ = ask(engine_of(path, folder, kv_dtype=kv_dtype), 7)
    assert first.n_cached == 0
    assert [file.stat().st_mode & 0o777 for file in (folder, *files(folder))] == [0o700, 0o600]
    engine = engine_of(path, folder, kv_dtype=kv_dtype)
    second, rows = ask(engine, 5)
    assert second.n_cached == 192
    assert engine.counters.n_computed < 60
    assert second.answer == plain.answer
    np.testing.assert_array_equal(rows, expected)
    assert len(files(folder)) == 1, "nothing is written twice"
    third, _ = ask(engine, 6)
    assert third.n_cached == 192


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def _grown(file: Path) -> None:
    os.truncate(file, 1 << 33)  # sparse


def _flipped(at: int) -> Callable[[Path], None]:
    def flip(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[at] ^= 1
        file.write_bytes(data)

    return flip


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _foreign(file: Path) -> None:
    file.chmod(0o666)


def _linked(file: Path) -> None:
    file.rename(file.with_suffix(".real"))
    file.symlink_to(file.with_suffix(".real"))


def _a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _swapped(file: Path) -> None:
    """Another beginning's file, whole, under this one's name."""
    other = next(each for each in files(file.parent) if each != file)
    shutil.copyfile(other, file)


@pytest.mark.parametrize(
    "spoil",
    [_cut, _grown, _empty, _foreign, _linked, _a_folder, _swapped]
    + [_flipped(at) for at in (0, 20, 50, 60, 100, 130, 3000, -1)],
)
def test_a_file_that_is_not_right_is_not_used(path: Path, tmp_path: Path, spoil: Any) -> None:
    plain, expected = ask(engine_of(path, None), 5)
    ask(engine_of(path, tmp_path), 7)
    (file,) = files(tmp_path)
    ask(engine_of(path, tmp_path), 7, system=2)
    spoil(file)
    engine = engine_of(path, tmp_path)
    sequence, rows = ask(engine, 5)
    assert (sequence.n_cached, sequence.answer) == (0, plain.answer)
    np.testing.assert_array_equal(rows, expected)
    again, _ = ask(engine_of(path, tmp_path), 5)
    assert again.n_cached == (0 if file.is_dir() else 192), "written anew"


def test_other_weights_kernels_and_types_have_files_of_their_own(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "changed.gguf"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    changed.write_bytes(data)
    folder = tmp_path / "prefixes"
    ask(engine_of(path, folder), 5)
    assert ask(engine_of(changed, folder), 5)[0].n_cached == 0
    assert ask(engine_of(path, folder, kv_dtype="f32"), 5)[0].n_cached == 0
    monkeypatch.setattr(prefix_store._native, "isa", lambda: "another")
    assert ask(engine_of(path, folder), 5)[0].n_cached == 0
    assert len(files(folder)) == 4


def test_the_folder_holds_no_more_than_it_may(path: Path, tmp_path: Path) -> None:
    """What was not used for longest goes."""
    options = {"prefix_bytes": 3 * FILE_BYTES}
    for system in (1, 2, 3):
        ask(engine_of(path, tmp_path, **options), 5, system)
        time.sleep(0.01)
    assert [file.stat().st_size for file in files(tmp_path)] == [FILE_BYTES] * 3
    assert ask(engine_of(path, tmp_path, **options), 5, 1)[0].n_cached == 192
    ask(engine_of(path, tmp_path, **options), 5, 4)
    assert len(files(tmp_path)) == 3
    cached = {system: ask(engine_of(path, tmp_path), 5, system)[0].n_cached for system in (1, 3, 4)}
    assert cached == {1: 192, 3: 192, 4: 192}
    ask(engine_of(path, tmp_path, prefix_bytes=FILE_BYTES - 1), 5, 9)
    assert len(files(tmp_path)) == 3, "one that is larger than all may be is not written"


def test_a_disk_that_takes_nothing_costs_no_answer(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prefix_store.os, "replace", full)
    assert ask(engine_of(path, tmp_path), 5)[0].answer == ask(engine_of(path, None), 5)[0].answer
    assert "No space left" in caplog.text
    assert files(tmp_path) == []


def test_a_folder_that_will_not_do_is_named(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"prefix_folder .*file cannot be made"):
        engine_of(path, tmp_path / "file")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(RequestError, match=r"others may write to it.*chmod go-w"):
        engine_of(path, tmp_path / "open")
    with pytest.raises(RequestError, match="prefix_folder needs prefix_caching"):
        engine_of(path, tmp_path, prefix_caching=False)


def test_what_a_killed_process_left_is_cleared(path: Path, tmp_path: Path) -> None:
    old, young = tmp_path / "a.part", tmp_path / "b.part"
    for part in (old, young):
        part.write_bytes(b"x")
    os.utime(old, (0, 0))
    engine_of(path, tmp_path)
    assert files(tmp_path) == [young]


def test_short_beginnings_and_small_caches(path: Path, tmp_path: Path) -> None:
    """A beginning under 128 ids stays; one larger than a cache's idle share is used in part."""
    engine = engine_of(path, tmp_path)
    engine.add(random_ids(1, 150), SamplingParams(max_tokens=1), None, 127)
    run(engine)
    engine.settle()
    assert files(tmp_path) == []
    ask(engine_of(path, tmp_path), 5)
    page = 32 * 2 * 2 * 2 * 32 * 2
    for n_pages, n_cached in ((9, 64), (40, 192)):
        sequence, _ = ask(engine_of(path, tmp_path, kv_bytes=n_pages * page), 5)
        assert sequence.n_cached == n_cached
    assert ask(engine_of(path, None, kv_bytes=9 * page), 5)[0].answer == sequence.answer
