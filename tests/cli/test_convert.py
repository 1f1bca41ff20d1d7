"""`hermes3 convert` and `quantize`: a path on standard output, whole files, and refusals that say why."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from hermes3.tokenizer import Tokenizer
from hermes3.tokenizer.export import ListedVocabulary, to_json
from hermes3.weights.checkpoint import open_checkpoint
from tests.cli.program import ROOT, command, inside
from tests.weights.tiny import CONFIG, gguf_file, hf_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return gguf_file(tmp_path / "model.gguf", CONFIG, tokenizer__ggml__tokens=None)


def test_convert_there_and_back(tmp_path: Path, model: Path) -> None:
    hf_model(CONFIG).save_pretrained(tmp_path / "folder")
    letters = [chr(0x100 + i) for i in range(40)]
    vocabulary = {"model": "gpt2", "pre": "gpt-2", "tokens": letters, "merges": [], "token_types": [1] * 40}
    ids = dict.fromkeys(("bos_id", "eot_id", "unknown_id", "padding_id", "add_bos", "chat_template"))
    listed = ListedVocabulary(**vocabulary, **ids, eos_id=3)
    (tmp_path / "folder" / "tokenizer.json").write_text(json.dumps(to_json(listed)))
    there = inside("convert", str(tmp_path / "folder"), str(tmp_path / "there.gguf"))
    assert (there.returncode, there.stdout) == (0, f"{tmp_path / 'there.gguf'}\n")
    assert "folder: F32, 365.8 kB to f32, " in there.stderr
    back = inside("convert", str(tmp_path / "there.gguf"), str(tmp_path / "back"), "--to", "bf16")
    assert (back.returncode, back.stdout) == (0, f"{tmp_path / 'back'}\n")
    assert open_checkpoint(tmp_path / "back").description == "BF16"
    assert Tokenizer.from_file(tmp_path / "back" / "tokenizer.json").token_id(letters[7]) == 7


def test_quantize(tmp_path: Path, model: Path) -> None:
    done = inside("quantize", str(model), str(tmp_path / "small.gguf"), "--to", "q8_0")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'small.gguf'}\n")
    assert open_checkpoint(tmp_path / "small.gguf").description == "Q8_0"
    twice = inside("quantize", str(tmp_path / "small.gguf"), str(tmp_path / "b.gguf"), "--to", "f16")
    assert twice.returncode == 2
    assert "is Q8_0 already and would lose twice" in twice.stderr
    again = inside("quantize", str(tmp_path / "small.gguf"), str(tmp_path / "b.gguf"), "--to", "f16",
                   "--requantize")  # fmt: skip
    assert again.returncode == 0


def test_quantized_weights_become_floats_in_a_folder(tmp_path: Path, model: Path) -> None:
    inside("quantize", str(model), str(tmp_path / "small.gguf"), "--to", "q8_0")
    done = inside("convert", str(tmp_path / "small.gguf"), str(tmp_path / "folder"))
    assert "the weights are Q8_0 and become f16" in done.stderr
    assert open_checkpoint(tmp_path / "folder").description == "F16"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert", "{m}", "{m}"], "is the source itself; choose another name"),
        (["convert", "{d}/./model.gguf", "{m}", "--to", "f16"], "is the source itself"),
        (["convert", "{m}", "{d}"], "exists; choose another name"),
        (["convert", "{m}", "{d}/other.gguf"], "is a GGUF file already; name a float type with --to"),
        (["convert", "{m}", "{d}/out", "--to", "q8_0"], "q8_0 is no float type; there are f32"),
        (["convert", "{m}", "{d}/out.gguf", "--to", "fp8"], "--to fp8 is for folders"),
        (["convert", "{m}", "{d}/no/out"], "no is no folder; make it first"),
        (["quantize", "{m}", "{d}/out.gguf", "--to", "q3"], "--to q3 is no type known here; there are f32"),
        (["quantize", "{m}", "{d}/o.gguf", "--to", "q8_0", "--calibrate", "{m}"], "--calibrate has no effe"),
        (["quantize", "{m}", "{d}/o.gguf", "--to", "q6_k", "--calibrate", "{m}"], "cannot be read as UTF-8"),
        (["quantize", "{m}", "{d}/out", "--to", "q8_0"], "out does not end in .gguf"),
    ],
)  # fmt: skip
def test_refusals(tmp_path: Path, model: Path, arguments: list[str], words: str) -> None:
    before = model.read_bytes()
    done = inside(*(each.format(m=model, d=tmp_path) for each in arguments))
    assert done.returncode == 2
    assert words in done.stderr
    assert [path.name for path in tmp_path.rglob("*.*")] == ["model.gguf"]
    assert model.read_bytes() == before


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    done = inside("quantize", str(tmp_path / "none.gguf"), str(tmp_path / "out.gguf"), "--to", "q8_0")
    assert done.returncode == 1
    assert "none.gguf" in done.stderr


def test_ctrl_c_leaves_nothing(tmp_path: Path, smol_gguf: Path) -> None:
    target = tmp_path / "out.gguf"
    words = command("quantize", str(smol_gguf), str(target), "--to", "f32", "--requantize")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        part = tmp_path / "out.gguf.part"
        while not (part.exists() and part.stat().st_size > 1e6) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert f"stopped; nothing was written to {target}" in err.decode()
    assert list(tmp_path.iterdir()) == []


def test_calibration_changes_the_k_formats(tmp_path: Path, smol_gguf: Path) -> None:
    (tmp_path / "text.txt").write_text("All happy families are alike; " * 200)
    for name, options in (("plain", []), ("calibrated", ["--calibrate", str(tmp_path / "text.txt")])):
        out = str(tmp_path / f"{name}.gguf")
        done = inside("quantize", str(smol_gguf), out, "--to", "q4_k_m", "--requantize", *options)
        assert done.returncode == 0, done.stderr
    plain, calibrated = (open_checkpoint(tmp_path / f"{name}.gguf") for name in ("plain", "calibrated"))
    for kind, is_same in (("mlp.down_proj", False), ("mlp.up_proj", True)):  # Q4_K, and Q5_0 in its place
        tensors = [each.tensor(f"model.layers.5.{kind}.weight").data for each in (plain, calibrated)]
        assert np.array_equal(*tensors) == is_same
