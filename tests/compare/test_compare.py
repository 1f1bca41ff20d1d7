"""Comparisons against torch's arithmetic on transformers' logits, and against llama.cpp's perplexity."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from hermes3.compare.measure import Comparison, Subject, Text, compare, ids_of, log_softmax
from hermes3.compare.plot import svg
from hermes3.compare.report import figures, table
from hermes3.errors import RequestError
from hermes3.llm.parts import tokenizer_of
from hermes3.tokenizer import Tokenizer
from hermes3.weights.checkpoint import open_checkpoint
from hermes3.weights.gguf_llama import GGUFVocabulary
from tests.cli.program import inside
from tests.weights.tiny import CONFIG, hf_model

PLAIN = dataclasses.replace(CONFIG, rope_scaling=None)
# Real prose that stands in every checkout.
PROSE = (Path(__file__).parent.parent.parent / "docs" / "architecture.md").read_text()


def subject(folder: Path, seed: int) -> tuple[Subject, torch.nn.Module]:
    model = hf_model(PLAIN)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        model.lm_head.weight *= 20  # opinions
    model.save_pretrained(folder)
    return Subject(folder.name, open_checkpoint(folder), 96), model


def test_figures_are_those_of_torch(tmp_path: Path) -> None:
    first, second = subject(tmp_path / "a", 1), subject(tmp_path / "b", 2)
    ids = np.random.default_rng(3).integers(0, 40, 4 * 96 + 5).tolist()
    text = Text.of(ids, 96, None, bos_id=7)
    assert (text.windows.shape, text.n_left_out) == ((4, 96), 5)
    found = compare(first[0], second[0], text)

    windows = torch.tensor(text.windows.astype(np.int64))
    assert (windows[:, 0] == 7).all()
    with torch.no_grad():
        scored = [model(windows).logits[:, 48:-1].double() for _, model in (first, second)]
    p, q = (torch.log_softmax(logits, -1).flatten(0, 1) for logits in scored)
    targets = windows[:, 49:].flatten()
    divergences = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    assert found.n_scored == len(targets) == 4 * 47
    assert np.allclose(found.divergences, divergences.sort().values.numpy(), atol=2e-5)
    assert divergences.mean() > 0.01
    for ours, theirs in zip(found.perplexities, (p, q), strict=True):
        assert ours == pytest.approx(torch.nn.functional.nll_loss(theirs, targets).exp().item(), rel=1e-5)
    assert found.agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).double().mean().item())
    assert 0 < found.agreement < 1
    assert min(found.prefill_rate, found.decode_rate) > 0


def test_a_model_is_itself(tmp_path: Path) -> None:
    one, _ = subject(tmp_path / "a", 1)
    other = Subject("b", open_checkpoint(tmp_path / "a"), 96)
    text = Text.of(list(range(40)) * 5, 96, 1, None)
    for found in (compare(one, one, text), compare(one, other, text)):
        assert not found.divergences.any()
        assert found.agreement == 1
        assert found.perplexities[0] == found.perplexities[1]


def test_log_softmax_keeps_large_logits() -> None:
    x = np.array([[1000, 999, -1000], [3e4, 3e4, 3e4]], np.float32)
    assert np.allclose(log_softmax(x), torch.log_softmax(torch.tensor(x), -1).numpy(), rtol=1e-6)


def test_a_text_without_a_window_is_refused() -> None:
    with pytest.raises(RequestError, match="the text has 95 tokens, one window takes 96; give a longer text"):
        Text.of([1] * 95, 96, None, None)


def test_other_vocabularies_are_refused(smol_gguf: Path) -> None:
    vocabulary = open_checkpoint(smol_gguf).vocabulary
    assert isinstance(vocabulary, GGUFVocabulary)
    the, of = (vocabulary.tokens.index(word) for word in ("Ġthe", "Ġof"))
    swapped = list(vocabulary.tokens)
    swapped[the], swapped[of] = swapped[of], swapped[the]
    other = dataclasses.replace(vocabulary, tokens=swapped)
    tokenizers = {"a": Tokenizer.from_gguf(vocabulary), "b": Tokenizer.from_gguf(other)}
    assert ids_of("two words", tokenizers)
    with pytest.raises(RequestError, match="a and b cut the text into different tokens"):
        ids_of("all of the words", tokenizers)


def made_up() -> list[Comparison]:
    draw = np.random.default_rng(1)
    parts = {"description": "Q4_0", "n_bytes": 98_000_000, "n_scored": 500, "perplexities": (10.0, 11.0),
             "loss_error": 0.02, "agreement": 0.9, "prefill_rate": 700.0, "decode_rate": 60.25}  # fmt: skip
    names = ("f16", "a<b", "c")
    return [Comparison(name=name, divergences=np.sort(draw.lognormal(-6, 2, 500)), **parts) for name in names]


def test_table_and_json_say_the_same() -> None:
    lines = table(made_up()).splitlines()
    headings = "model weights size perplexity KL mean KL 99 % same top prefill decode"
    assert " ".join(lines[0].split()) == headings
    assert len({len(line) for line in lines[:4]}) == 1
    values = figures(made_up()[1])
    assert json.loads(json.dumps(values)) == values
    row = lines[2].split()
    assert row[:4] == ["a<b", "Q4_0", "98.0", "MB"]
    assert row[4:7] == ["11.000", "±", "0.220"]
    assert float(row[7]) == pytest.approx(values["kl_mean"], abs=1e-5)
    assert float(row[8]) == pytest.approx(np.quantile(made_up()[1].divergences, 0.99), abs=1e-4)
    assert row[9:] == ["90.00%", "700", "60.2"]


def test_the_plot_draws_every_model() -> None:
    drawn = svg("f16", made_up()[1:])
    root = ElementTree.fromstring(drawn)
    lines = [each for each in root.iter() if each.tag.endswith("polyline")]
    assert len(lines) == 2
    heights = [float(point.split(",")[1]) for point in lines[0].attrib["points"].split()]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] > heights[100] > heights[-1]
    texts = [each.text for each in root.iter() if each.tag.endswith("text")]
    assert any("a<b (Q4_0)" in (text or "") for text in texts)


@pytest.fixture
def prose(tmp_path: Path) -> Path:
    path = tmp_path / "prose.txt"
    path.write_text(PROSE)
    return path


def test_the_command(tmp_path: Path, prose: Path, smol_gguf: Path) -> None:
    q8 = tmp_path / "q8.gguf"
    inside("quantize", str(smol_gguf), str(q8), "--to", "q8_0", "--requantize")
    plot = tmp_path / "p.svg"
    options = ["--text", str(prose), "--windows", "1", "--ctx", "128"]
    done = inside("compare", str(smol_gguf), str(q8), *options, "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    first, second = (json.loads(line) for line in lines if line.startswith("{"))
    assert (first["kl_max"], first["top1_agreement"], first["tokens_scored"]) == (0, 1, 63)
    assert 0 < second["kl_mean"] < 0.02
    assert second["reference_perplexity"] == first["perplexity"]
    assert lines[2].startswith("q8 ")
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{m}"], "alone: name the model to compare it with"),
        (["{m}", "{m}"], "the same model twice"),
        (["{m}", "{m}", "--plot", "p.png"], "--plot p.png: it must end in .svg"),
        (["{m}", "{m}", "--text", "{m}"], "cannot be read as UTF-8 text"),
    ],
)
def test_refusals(prose: Path, smol_gguf: Path, arguments: list[str], words: str) -> None:
    given = [each.format(m=smol_gguf) for each in arguments]
    done = inside("compare", "--text", str(prose), *given)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["q4_k_m", "q5_k_m"])
def test_k_formats_lose_no_more_than_llama_cpps(
    tmp_path: Path, shared_data: Path, smol_gguf: Path, kind: str, llama_cpp: Path
) -> None:
    with gzip.open(shared_data / "eval" / "boolq.jsonl.gz", "rt") as file:
        passages = [json.loads(line)["passage"] for line in itertools.islice(file, 30)]
    source, ours, theirs = (tmp_path / f"{name}.gguf" for name in ("f16", "ours", "theirs"))
    inside("quantize", str(smol_gguf), str(source), "--to", "f16", "--requantize")
    inside("quantize", str(source), str(ours), "--to", kind)
    command = [llama_cpp / "llama-quantize", source, theirs, kind, "2"]
    subprocess.run(command, capture_output=True, check=True)
    checkpoint = open_checkpoint(source)
    text = Text.of(tokenizer_of(checkpoint).encode("\n\n".join(passages)), 512, 6, None)
    reference = Subject("f16", checkpoint, 512)
    losses = [
        compare(reference, Subject(path.stem, open_checkpoint(path), 512), text).divergences.mean()
        for path in (ours, theirs)
    ]
    assert 0.001 < losses[0] <= losses[1]


@pytest.mark.long  # 8,000 tokens of encyclopedic text; with fewer, what two engines round shows
@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_k_m"])
def test_perplexity_is_llama_cpps(
    tmp_path: Path, shared_data: Path, smol_gguf: Path, kind: str, llama_cpp: Path
) -> None:
    with gzip.open(shared_data / "eval" / "boolq.jsonl.gz", "rt") as file:
        passages = [json.loads(line)["passage"] for line in itertools.islice(file, 60)]
    path, prose = tmp_path / "m.gguf", tmp_path / "prose.txt"
    prose.write_text("\n\n".join(passages))
    inside("quantize", str(smol_gguf), str(path), "--to", kind, "--requantize")
    command = [llama_cpp / "llama-perplexity", "-m", path, "-f", prose, "-c", "512", "-t", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    final = re.search(r"Final estimate: PPL = ([\d.]+)", done.stdout + done.stderr)
    assert final is not None
    checkpoint = open_checkpoint(path)
    tokenizer = tokenizer_of(checkpoint)
    bos = tokenizer.bos_id if tokenizer.add_bos else None
    text = Text.of(tokenizer.encode(prose.read_text()), 512, None, bos)
    one = Subject("m", checkpoint, 512)
    assert compare(one, one, text).perplexities[0] == pytest.approx(float(final[1]), rel=0.005)
