"""A model card of one's own, in the shape of Hermes 3 3B's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from hermes3.errors import RequestError
from hermes3.eval.examples import Example
from hermes3.eval.measured import Measured
from hermes3.eval.origin import Origin
from hermes3.eval.prompts import CONVERSATION, fenced
from hermes3.eval.prompts import sections as prompt_sections
from hermes3.eval.tables import FORMULA, Row, average, write
from hermes3.prompt.chatml import Template
from hermes3.weights.whole import whole_file

FILE = "README.md"
_TITLES = {"gpt4all": "GPT4All", "agieval": "AGIEval", "bbh": "BigBench", "tasks": "Other tasks"}
_CITATION = """@misc{teknium2024hermes3technicalreport,
      title={Hermes 3 Technical Report},
      author={Ryan Teknium and Jeffrey Quesnelle and Chen Guang},
      year={2024},
      eprint={2408.11857},
      archivePrefix={arXiv},
      primaryClass={cs.CL},
      url={https://arxiv.org/abs/2408.11857},
}"""


def page(
    origin: Origin, measured: Sequence[Measured], examples: Sequence[Example] | None, template: Template
) -> str:
    """The card's text.

    Args:
        measured: results of evaluations; empty for none, which the card says.
        examples: with what they printed; None where none were run, which the card says.
        template: the model's prompt template.
    """
    parts = [
        front_matter(origin, measured),
        f"# {origin.name}",
        _description(origin),
        _benchmarks(measured),
        prompt_sections(template, origin.checkpoint.chat_template is not None),
        _inference(origin, examples),
        _versions(origin),
        f"# How to cite\n\nThe prompt format is that of Hermes 3:\n\n{fenced(_CITATION, 'bibtex')}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def save(folder: Path, text: str, *, overwrite: bool) -> Path:
    """Writes README.md, whole or not at all.

    Raises:
        RequestError: there is one already, and it may not be overwritten.
    """
    path = folder / FILE
    if path.exists() and not overwrite:
        raise RequestError(f"{path} is there already; --force overwrites it", param="force")
    raw = text.encode()
    with whole_file(path, len(raw)) as file:
        file.write(raw)
    return path


def front_matter(origin: Origin, measured: Sequence[Measured]) -> str:
    """What the hub reads, as YAML between two lines of dashes; what nobody knows is left out."""
    is_folder = origin.path.is_dir()
    own = ["llama", "chatml", *([] if is_folder else ["gguf"]), "hermes3", *origin.tags]
    messages = [{"role": each.role, "content": each.content} for each in CONVERSATION]
    fields: dict[str, Any] = {
        "language": list(origin.languages),
        "license": origin.license,
        "tags": list(dict.fromkeys(own)),
        "base_model": origin.base_model,
        "pipeline_tag": "text-generation",
        "widget": [{"example_title": origin.name, "messages": messages}],
        "model-index": [{"name": origin.name, "results": list(_index(measured))}],
        "library_name": "transformers" if is_folder else "gguf",
    }
    known = {key: value for key, value in fields.items() if value}
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=100)}---"


def _index(measured: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """Each figure in the hub's form."""
    for row in (row for each in measured for _, rows in each.sections() for row in rows):
        yield {
            "task": {"type": "text-generation"},
            "dataset": {"name": row.task, "type": row.task, "args": {"num_few_shot": row.n_shot}},
            "metrics": [{"type": row.metric, "value": round(row.value, 4), "name": row.metric}],
        }


def _description(origin: Origin) -> str:
    config, checkpoint = origin.checkpoint.config, origin.checkpoint
    trained = f" trained by {origin.method}" if origin.method else ""
    base = f" from {origin.base_model}" if origin.base_model and origin.method else ""
    sizes = (
        f"{origin.n_parameters / 1e6:,.0f} million parameters, {config.num_hidden_layers} layers of width "
        f"{config.hidden_size}, {config.num_attention_heads} attention heads over "
        f"{config.num_key_value_heads} of keys and values, a vocabulary of {config.vocab_size:,} tokens and "
        f"a context of {config.max_position_embeddings:,}"
    )
    stored = f"The weights are stored as {checkpoint.description}, {checkpoint.n_bytes / 1e6:,.0f} MB."
    text = f"{origin.name} is a language model of the Llama architecture{trained}{base}: {sizes}. {stored}"
    parts = ["## Model Description", text]
    if origin.recipe:
        rows = [f"| `{key}` | {value.replace('|', chr(92) + '|')} |" for key, value in origin.recipe.items()]
        parts += ["The recipe of its training run:", "\n".join(["| setting | value |", "|---|---|", *rows])]
    else:
        parts.append("No recipe of a training run lies beside it.")
    return "\n\n".join(parts)


def _benchmarks(measured: Sequence[Measured]) -> str:
    if not measured:
        return "# Benchmarks\n\nNone were run. `hermes3 eval` measures the tables of Hermes 3's card."
    parts = ["# Benchmarks", "Measured with lm-eval through `hermes3 eval`."]
    for each in measured:
        if each.limit is not None:
            parts.append(f"The first {each.limit} documents of each task: not comparable with whole tasks.")
        parts += [_table(name, rows) for name, rows in each.sections()]
    return "\n\n".join([*parts, f"Average: {FORMULA}."])


def _table(name: str, rows: list[Row]) -> str:
    return f"## {_TITLES[name]}:\n{fenced(write(rows))}\n\nAverage: {average(rows):.2f}"


def _inference(origin: Origin, examples: Sequence[Example] | None) -> str:
    parts = ["# Inference"]
    if examples is None:
        parts.append("No examples were run for this card.")
    else:
        parts.append(
            "With hermes3, in the folder of the model. The outputs are what the model wrote for this card."
        )
        for each in examples:
            code, output = fenced(each.code.rstrip("\n"), "python"), fenced(each.output)
            parts.append(f"## {each.title}\n\n{code}\n\nOutput:\n\n{output}")
    spec = "." if origin.path.is_dir() else f"./{origin.path.name}"
    parts.append(f"As an OpenAI-compatible server:\n\n{fenced(f'hermes3 serve --model {spec}', 'sh')}")
    return "\n\n".join(parts)


def _versions(origin: Origin) -> str:
    if not origin.others:
        return ""
    lines = [f"- `{each.name}`, {each.stat().st_size / 1e6:,.0f} MB" for each in origin.others]
    return "\n".join(["# Quantized Versions\n", *lines])
