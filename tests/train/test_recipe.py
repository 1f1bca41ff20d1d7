from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from hermes3.errors import FormatError, ModelNotFoundError, RequestError
from hermes3.train import recipe as recipes
from hermes3.train.recipe import Recipe, read, shipped
from tests.cli.program import ROOT

LEAST: dict[str, Any] = {"method": "sft", "model": "m", "output": "o", "data": {"train": ["a"]}}


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_sound_and_come_back_equal(name: str) -> None:
    made = read(name)
    assert Recipe.of(json.loads(json.dumps(made.to_dict()))) == made


def test_the_report_s_settings() -> None:
    for size in ("3b", "8b"):
        sft, dpo = read(f"hermes-{size}-sft"), read(f"hermes-{size}-dpo")
        assert (sft.lr, sft.warmup_steps, sft.epochs, sft.batch_size, sft.max_length) == (
            7e-6,
            300,
            4,
            48,
            8192,
        )
        assert sft.adamw is not None
        assert (sft.adamw.weight_decay, sft.schedule, sft.lora) == (0.01, "cosine", None)
        assert (dpo.lr, dpo.warmup_steps, dpo.schedule, dpo.neftune_alpha) == (3e-6, 9, "linear", 5.0)
        assert dpo.rmsprop is not None
        assert dpo.lora is not None
        assert (dpo.lora.rank, dpo.lora.alpha, dpo.lora.dropout) == (32, 16, 0.05)
        assert dpo.lora.targets == recipes.LINEAR


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lerning_rate": 1}, "lerning_rate is not known"),
        ({"batchsize": 1}, "did you mean batch_size"),
        ({"lora": {"rnak": 1}}, r"lora\.rnak is not known; did you mean rank"),
        ({"lr": "fast"}, "lr is 'fast'; it must be of type float"),
        ({"lr": -1.0}, "lr is -1.0; it must lie between"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"epochs": True}, "epochs is True; it must be of type int"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"method": "ppo"}, "method is 'ppo'; it must be one of 'sft', 'dpo'"),
        ({"data": {"train": []}}, r"data\.train .* at least one file"),
        ({"data": {"train": ["a"], "weights": [1.0, 2.0]}}, r"data\.weights"),
        ({"data": {}}, r"data\.train is missing"),
        ({"adamw": {}, "rmsprop": {}}, "one optimiser"),
        ({"dpo": {}}, "dpo has no effect with method 'sft'"),
        ({"method": "dpo", "distill": {"teacher": "t"}}, "distill is for method 'sft'"),
        ({"evaluation": {"every": 3}}, "needs held-out data"),
        ({"lora": {"targets": ["lm_head"]}}, r"lora\.targets"),
        ({"lora": 3}, "lora is 3; it must be a table"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Recipe.of({**LEAST, **changes})


def test_settings_go_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('method = "sft"\nmodel = "m"\noutput = "o"\nlr = 1e-3\n[data]\ntrain = ["a"]\n')
    made = read(str(path), ["lr=1e-5", "data.train=b.jsonl", "lora.rank=8", "schedule=linear"])
    assert (made.lr, made.data.train, made.schedule) == (1e-5, ("b.jsonl",), "linear")
    assert made.lora is not None
    assert made.lora.rank == 8
    for change, message in (("lr", "no NAME=VALUE"), ("lr.x=1", "no table"), ("foo=1", "foo is not known")):
        with pytest.raises(RequestError, match=message):
            read(str(path), [change])


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="shipped ones: hermes-3b-dpo"):
        read(str(tmp_path / "missing.toml"))
    for name, text in (("a.toml", "lr = "), ("b.json", "[1]"), ("c.json", "{")):
        (tmp_path / name).write_text(text)
        with pytest.raises(FormatError):
            read(str(tmp_path / name))


def test_every_setting_is_read_somewhere() -> None:
    sources = [path.read_text() for path in (ROOT / "src" / "hermes3" / "train").glob("*.py")
               if path.name != "recipe.py"]  # fmt: skip
    text = "\n".join(sources)
    tables = [kind for kind in vars(recipes).values() if dataclasses.is_dataclass(kind)]
    names = {field.name for table in tables for field in dataclasses.fields(table)}  # type: ignore[arg-type]
    unread = {name for name in names if not re.search(rf"\.{name}\b", text)}
    assert unread == set()
