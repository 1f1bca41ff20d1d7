from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hermes3.errors import FormatError, RequestError
from hermes3.train.losses import weighted_nll
from hermes3.train.model import Batch
from hermes3.train.objectives import NextToken
from hermes3.train.packing import example_row
from hermes3.train.teacher import Teacher, ask
from tests.train.runs import go, recipe
from tests.train.tiny import CONFIG, documents, ours

CPU = torch.device("cpu")


def test_loss_and_gradients_are_those_of_all_logits() -> None:
    examples = documents(4)
    teacher, student = ours(), ours()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.1)
    k, share = 5, 0.7
    taught = ask(teacher, examples, k, lambda n: None)
    n_trained = np.array([example.n_trained for example in examples])
    objective = NextToken(examples, n_trained, taught, share)
    documents_of_row = (2, 0, 3)
    batch = Batch.of(objective.row(documents_of_row), CPU)
    loss, nll = student(batch, objective.reader(documents_of_row))
    loss.backward()
    mine = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    with torch.no_grad():
        expected = teacher(batch)[batch.predictors] @ teacher.head.T
    top = expected.log_softmax(-1).topk(k, -1)
    scores = (student(batch)[batch.predictors] @ student.head.T).log_softmax(-1)
    divergence = (top.values.exp() * (top.values - scores.gather(1, top.indices))).sum(1)
    own = -scores.gather(1, batch.targets[:, None])[:, 0]
    whole = (batch.weights * ((1 - share) * own + share * divergence)).sum()
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(nll, (batch.weights * own).sum())
    whole.backward()
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(mine[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_one_target_each_is_the_plain_loss() -> None:
    model = ours()
    batch = Batch.of(example_row(documents(2)), CPU)
    states = model(batch)[batch.predictors].detach()
    plain = weighted_nll(states, model.head, batch.targets, batch.weights)
    column = weighted_nll(states, model.head, batch.targets[:, None], batch.weights[:, None])
    assert plain == column


def test_a_teacher_s_file_is_held_against_the_data(tmp_path: Path) -> None:
    examples = documents(3)
    n_trained = np.array([example.n_trained for example in examples])
    path = tmp_path / "t.npz"
    ask(ours(), examples, 4, lambda n: None).save(path)
    read = Teacher.load(path, n_trained, CONFIG.vocab_size)
    assert np.array_equal(read.rows([1])[0], ask(ours(), examples, 4, lambda n: None).rows([1])[0])
    with pytest.raises(RequestError, match="other examples"):
        Teacher.load(path, n_trained[::-1] + 1, CONFIG.vocab_size)
    with pytest.raises(FormatError, match="ids that the vocabulary"):
        Teacher.load(path, n_trained, 5)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FormatError, match="no teacher's file"):
        Teacher.load(path, n_trained, CONFIG.vocab_size)


def test_a_run_with_a_teacher_of_itself_has_no_divergence(tmp_path: Path) -> None:
    made = recipe(tmp_path, max_steps=2, distill={"teacher": str(tmp_path / "t.npz"), "share": 1.0})
    from hermes3.train.build import text_of
    from hermes3.train.folders import load
    from hermes3.train.material import Material
    from hermes3.weights.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(tmp_path / "base")
    corpus = Material.read(made, *text_of(checkpoint)).train
    ask(load(checkpoint), corpus, CONFIG.vocab_size, lambda n: None).save(tmp_path / "t.npz")  # type: ignore[arg-type]
    first, second = go(made)
    assert first == pytest.approx(0, abs=1e-4)
    assert second == pytest.approx(0, abs=1e-4)
