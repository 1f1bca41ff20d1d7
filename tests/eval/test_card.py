"""Model cards of one's own, read by huggingface_hub and beside Hermes 3 3B's own rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import AutoTokenizer

from hermes3.convert.to_folder import to_folder
from hermes3.eval import examples, measured, origin, prompts
from hermes3.eval.page import page
from hermes3.eval.tables import average, read, write
from hermes3.llm.parts import template_of, tokenizer_of
from hermes3.weights.checkpoint import open_checkpoint
from hermes3.weights.quant import GGMLType
from tests.cli.program import hermes3, inside
from tests.convert.quiet import QUIET

RECIPE = """
method = "sft"
model = "NousResearch/Meta-Llama-3.2-3B"
license = "llama3"
note = "a | b\\n# not a heading"
[optimizer]
lr = 7e-6
betas = [0.9, 0.95]
"""


@pytest.fixture(scope="module")
def folder(smol_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "my-finetune"
    to_folder(open_checkpoint(smol_gguf), folder, GGMLType.BF16, QUIET)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def published(shared_data: Path) -> str:
    return (shared_data.parent / "MODEL_CARD.md").read_text()


def results_of(card: str) -> dict[str, Any]:
    """The card's own rows in the form of lm-eval's results."""
    results: dict[str, Any] = {"results": {}, "versions": {}, "n-shot": {}}
    for row in (row for table in read(card) for row in table):
        values = results["results"].setdefault(row.task, {"alias": row.task})
        values |= {f"{row.metric},none": row.value, f"{row.metric}_stderr,none": row.stderr}
        results["versions"][row.task], results["n-shot"][row.task] = float(row.version), row.n_shot
    return results


def text_of(folder: Path, results: list[measured.Measured], shown: list[examples.Example] | None) -> str:
    known = origin.origin_of(folder)
    return page(known, results, shown, template_of(known.checkpoint, tokenizer_of(known.checkpoint)))


def test_the_published_rows_give_the_published_tables(folder: Path, published: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results_of(published)))
    text = text_of(folder, measured.given([tmp_path], folder), None)
    assert [f"{average(table):.2f}" for table in read(text)] == ["63.96", "34.36", "43.76"]
    assert re.findall(r"^Average: ([\d.]+)$", text, re.MULTILINE) == ["63.96", "34.36", "43.76"]
    for table in read(published):
        assert f"```\n{write(table)}\n```" in text
    card = ModelCard(text)
    figures = {(each.dataset_name, each.metric_type): each.metric_value for each in card.data.eval_results}
    rows = [row for table in read(published) for row in table]
    assert figures == {(row.task, row.metric): row.value for row in rows}


def test_front_matter_and_sections(folder: Path, published: str) -> None:
    card = ModelCard(text_of(folder, [], [examples.Example("Chat", "print('```')\n", "```\nfenced")]))
    assert card.data.license == "llama3"
    assert card.data.base_model == "NousResearch/Meta-Llama-3.2-3B"
    assert card.data.library_name == "transformers"
    assert "model-index" in yaml.safe_load(published.split("---")[1])  # what it is shaped after
    headings = [line for line in re.sub(r"^(`{3,})[^`]*?^\1", "", card.text, flags=re.M | re.S).splitlines()
                if line.startswith("#")]  # fmt: skip
    shape = ["# my-finetune", "## Model Description", "# Benchmarks", "# Prompt Format",
             "## Prompt Format for Function Calling", "## Prompt Format for JSON Mode / Structured Outputs",
             "# Inference", "## Chat", "# How to cite"]  # fmt: skip
    assert headings == shape
    assert set(shape[1:7]) <= set(published.splitlines())
    assert "| `optimizer.lr` | 7e-06 |" in card.text
    assert "| `note` | a \\| b # not a heading |" in card.text
    assert "trained by supervised fine-tuning from NousResearch/Meta-Llama-3.2-3B" in card.text
    assert "135 million parameters" in card.text
    assert "None were run." in card.text
    assert "````\n```\nfenced\n````" in card.text


def test_the_prompt_is_what_transformers_makes(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": each.role, "content": each.content} for each in prompts.CONVERSATION]
    expected = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert f"```\n{expected.rstrip()}\n```" in text_of(folder, [], None)


def test_results_are_those_of_the_model(folder: Path, tmp_path: Path, smol_gguf: Path) -> None:
    results = results_of("") | {"results": {"boolq": {"acc,none": 0.5, "acc_stderr,none": 0.1}}}
    results["hermes3"] = {"model": "x", "weights": measured.identity(folder), "limit": 5}
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    (one,) = measured.found([tmp_path, tmp_path / "none"], folder)
    assert "The first 5 documents of each task" in text_of(folder, [one], None)
    assert measured.found([tmp_path], smol_gguf) == []
    with pytest.raises(Exception, match=r"measured other weights \(x\)"):
        measured.given([file], smol_gguf)
    file.write_text('{"results": []}')
    with pytest.raises(Exception, match="holds no results of lm-eval"):
        measured.given([file], folder)
    with pytest.raises(Exception, match="no results at"):
        measured.given([tmp_path / "none"], folder)


def test_the_command_runs_its_examples(smol_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / smol_gguf.name).symlink_to(smol_gguf)
    done = hermes3("card", str(tmp_path))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "README.md").read_text()
    code = re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert code is not None
    assert f"LLM('./{smol_gguf.name}'" in code[1]
    assert re.search(r"^Output:\n\n```\n.*Paris", text, re.MULTILINE | re.DOTALL)
    assert "not known, and left out" in done.stderr
    assert ModelCard(text).data.library_name == "gguf"
    again = inside("card", str(tmp_path), "--no-run")
    assert again.returncode == 2
    assert "--force overwrites it" in again.stderr
    assert (tmp_path / "README.md").read_text() == text
    forced = inside("card", str(tmp_path), "--no-run", "--force", "--name", "Mine", "--license", "mit")
    assert forced.returncode == 0, forced.stderr
    card = ModelCard((tmp_path / "README.md").read_text())
    assert "No examples were run for this card." in card.text
    assert card.text.lstrip().startswith("# Mine\n")
    assert card.data.license == "mit"


def test_an_example_that_fails_is_no_card(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"nothing")
    with pytest.raises(Exception, match="the example 'Chat' failed"):
        examples.run_all(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("names", "words", "complaint"),
    [
        ((), (), "neither config.json nor a .gguf file"),
        (("a.gguf", "b.gguf"), (), "say which with --file (a.gguf, b.gguf)"),
        (("a.gguf",), ("--file", "c.gguf"), "has no file c.gguf"),
        (("a.gguf", "README.md"), (), "--force overwrites it"),
    ],
)
def test_refusals(tmp_path: Path, names: tuple[str, ...], words: tuple[str, ...], complaint: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    done = inside("card", str(tmp_path), *words)
    assert done.returncode in (1, 2)
    assert complaint in done.stderr
