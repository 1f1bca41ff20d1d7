"""What a run leaves, read by the engine: the logits of the model in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hermes3.compare.measure import Subject
from hermes3.convert.recipes import RECIPES
from hermes3.convert.to_gguf import to_gguf
from hermes3.train import folders
from hermes3.train.model import Batch
from hermes3.train.packing import Row, example_row
from hermes3.train.ranks import Ranks
from hermes3.weights.checkpoint import open_checkpoint
from tests.convert.quiet import QUIET
from tests.train.runs import go, recipe
from tests.train.tiny import CONFIG, documents

ALONE = Ranks(0, 1, torch.device("cpu"))


def test_the_engine_has_the_logits_of_the_trained_model(tmp_path: Path) -> None:
    go(recipe(tmp_path, max_steps=3))
    out = tmp_path / "out" / "model"
    to_gguf(open_checkpoint(out), tmp_path / "m.gguf", RECIPES["f32"], QUIET)
    (example,) = [each for each in documents(40, longest=24) if len(each) == 24][:1]
    row = example_row([example])
    expected = logits_of(out, row)
    assert np.abs(expected - logits_of(tmp_path / "base", row)).max() > 0.1
    for path in (out, tmp_path / "m.gguf"):
        found = Subject("m", open_checkpoint(path), 24).logits(example.ids)
        assert found.shape == (11, CONFIG.vocab_size)
        np.testing.assert_allclose(found, expected[12:-1], rtol=1e-3, atol=1e-4)


def logits_of(folder: Path, row: Row) -> NDArray[np.float32]:
    """Of all tokens of a row, by our model in torch."""
    with torch.no_grad():
        return folders.load(open_checkpoint(folder)).logits(Batch.of(row, ALONE.device)).numpy()
