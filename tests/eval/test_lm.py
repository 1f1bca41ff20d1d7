"""Our model for lm-eval beside its own hf model, on the same float32 weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.api.registry import get_model

from bench.eval import answers_of, compare
from hermes3.convert.to_folder import to_folder
from hermes3.errors import RequestError
from hermes3.eval.journal import Journal, key_of
from hermes3.eval.lm import Hermes3LM, sampling_of
from hermes3.eval.run import evaluate
from hermes3.eval.tasks import SUITES, offline, packaged, tasks_of
from hermes3.llm import LLM
from hermes3.weights.checkpoint import open_checkpoint
from hermes3.weights.quant import GGMLType
from tests.convert.quiet import QUIET

ROOT = Path(__file__).parent.parent.parent
SHAPES = ["arc_easy", "hellaswag", "winogrande", "agieval_sat_math", "leaderboard_bbh_navigate"]
MANY = ["arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa", "winogrande",
        "agieval_aqua_rat", "agieval_sat_math", "agieval_sat_en_without_passage",
        "leaderboard_bbh_boolean_expressions", "leaderboard_bbh_sports_understanding",
        "leaderboard_bbh_hyperbaton"]  # fmt: skip
TEXTS = ["The quick brown fox jumps over the lazy dog. " * 9, "One.", " leading space and trailing "]


@pytest.fixture(scope="module")
def floats(smol_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """smol's weights, dequantized, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("weights") / "smol"
    to_folder(open_checkpoint(smol_gguf), folder, GGMLType.F32, QUIET)
    return folder


@pytest.fixture(scope="module")
def ours(floats: Path) -> Iterator[Hermes3LM]:
    with LLM(floats, n_ctx=2048) as llm:
        yield Hermes3LM(llm)


@pytest.fixture(scope="module")
def theirs(floats: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(floats), dtype="float32", device="cpu", max_length=2048)


def requests(*args: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=each) for each in args]


@pytest.mark.parametrize(
    ("tasks", "limit"),
    [(SHAPES, 1), pytest.param(MANY, 100, marks=[pytest.mark.long, pytest.mark.timeout(7200)])],
)
def test_answers_are_those_of_lm_evals_hf_model(
    floats: Path, theirs: Any, shared_data: Path, tasks: list[str], limit: int
) -> None:
    with LLM(floats, n_ctx=2048) as llm:
        lm = Hermes3LM(llm)
        ours = answers_of(lm, tasks, shared_data / "eval", limit)
    theirs = answers_of(theirs, tasks, shared_data / "eval", limit)
    for a, b in zip(ours["answers"], theirs["answers"], strict=True):
        assert a[0] == pytest.approx(b[0], abs=1e-3)
        assert a[1] == b[1]
    assert ours["values"] == theirs["values"]
    assert "every accuracy identical" in compare(ours, theirs)
    assert lm.counters.n_computed < lm.counters.n_given / 2


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_where_hf_is_the_rougher_one(
    floats: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """piqa's long continuations: hf's float32 sums differ by up to 2e-3 from the same model in float64."""
    from lm_eval.models.huggingface import HFLM
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def in_float64(self: Any, x: Any) -> Any:  # transformers' own goes through float32
        return self.weight * (x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt())

    data, limit = shared_data / "eval", 100
    with LLM(floats, n_ctx=2048) as llm:
        ours = answers_of(Hermes3LM(llm), ["piqa"], data, limit)
    monkeypatch.setattr(LlamaRMSNorm, "forward", in_float64)
    exact = HFLM(pretrained=str(floats), dtype="float64", device="cpu", max_length=2048)
    expected = answers_of(exact, ["piqa"], data, limit)
    assert len(expected["answers"]) == 2 * limit
    for (found, is_greedy), (value, is_top) in zip(ours["answers"], expected["answers"], strict=True):
        assert found == pytest.approx(value, abs=1e-3)
        assert is_greedy == is_top
    assert ours["values"] == expected["values"]


def test_whole_texts(ours: Hermes3LM, theirs: Any) -> None:
    texts = requests(*((text,) for text in TEXTS))
    expected = theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    found = ours.loglikelihood_rolling(texts, disable_tqdm=True)
    assert found == pytest.approx(expected, abs=5e-3)  # sums over up to 91 tokens


def test_empty_contexts_and_spaces(ours: Hermes3LM, theirs: Any) -> None:
    pairs = requests(("", "Hello there"), ("A cat ", "sat"), ("A cat", " sat"), ("Q: x\n\n", "A: y"))
    expected = theirs.loglikelihood(pairs, disable_tqdm=True)
    found = ours.loglikelihood(pairs, disable_tqdm=True)
    assert [logprob for logprob, _ in found] == pytest.approx([logprob for logprob, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_contexts_that_are_too_long_are_cut_as_hf_cuts_them(
    floats: Path, theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = requests(("word " * 100 + "the cat", " sat on a mat"), ("the cat", " sat"))
    monkeypatch.setattr(theirs, "_max_length", 32)
    with LLM(floats, n_ctx=32) as llm:
        ours = Hermes3LM(llm)
        found = ours.loglikelihood(pairs, disable_tqdm=True)
    expected = theirs.loglikelihood(pairs, disable_tqdm=True)
    assert [each[0] for each in found] == pytest.approx([each[0] for each in expected], abs=1e-3)
    assert ours.counters.n_truncated == 1


def test_generated_answers_are_hfs(ours: Hermes3LM, theirs: Any) -> None:
    jobs = requests(
        ("Question: What is the capital of France?\nAnswer:", {"until": ["\n"], "max_gen_toks": 12}),
        ("1, 2, 3, 4,", {"until": [" 9"], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0}),
    )
    assert ours.generate_until(jobs, disable_tqdm=True) == theirs.generate_until(jobs, disable_tqdm=True)


def test_conversations_are_hfs(ours: Hermes3LM, theirs: Any) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <|im_end|>"}]
    for last in (True, False):
        assert ours.apply_chat_template(turns, last) == theirs.apply_chat_template(turns, last)
    text = ours.apply_chat_template(turns)
    assert ours.tok_encode(text) == theirs.tok_encode(text)


def test_a_killed_run_goes_on_where_it_was(ours: Hermes3LM, shared_data: Path, tmp_path: Path) -> None:
    path, tasks = tmp_path / "answers.jsonl", ["arc_easy", "winogrande"]
    whole = evaluate(ours, tasks, data=shared_data / "eval", limit=3)
    first = Hermes3LM(ours.llm, journal=path)
    evaluate(first, tasks[:1], data=shared_data / "eval", limit=3)
    assert first._journal is not None
    first._journal.__exit__(None, None, None)
    path.write_bytes(path.read_bytes()[:-9])  # the kill came while it wrote the last answer
    second = Hermes3LM(ours.llm, journal=path)
    again = evaluate(second, tasks, data=shared_data / "eval", limit=3)
    assert again.results["results"] == whole.results["results"]
    assert second.counters.n_requests == 18
    assert second.counters.n_found == 11
    files = again.save(tmp_path / "out")
    assert all(file.stat().st_size > 100 for file in files)
    assert json.loads(files[0].read_text())["results"]["arc_easy"]["acc,none"] == pytest.approx(
        whole.results["results"]["arc_easy"]["acc,none"]
    )
    assert "11 of them from an earlier run" in files[2].read_text()


def test_journals_of_other_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with Journal(path, {"path": "a"}) as journal:
        journal.add(key_of("score", [1], [2]), [-1.5, True])
    with Journal(path, {"path": "a"}) as journal:
        assert journal.answers == {key_of("score", [1], [2]): [-1.5, True]}
    with pytest.raises(RequestError, match="another model"):
        Journal(path, {"path": "b"})
    path.write_text('{"path": "a"}\nnonsense\n')
    with pytest.raises(RequestError, match="damaged"):
        Journal(path, {"path": "a"})
    assert key_of("score", [1, 2], [3]) != key_of("score", [1], [2, 3])


def test_all_tasks_have_their_files(shared_data: Path, tmp_path: Path) -> None:
    for task in SUITES["card"]:
        assert packaged(task).is_file()
        assert offline(task, shared_data / "eval", tmp_path).is_file()
    assert tasks_of("agieval,arc_easy,agieval") == [*SUITES["agieval"], "arc_easy"]
    for task, words in (("mmlu", "the card's tasks alone"), ("boolq", "no boolq.jsonl")):
        with pytest.raises(RequestError, match=words):
            offline(task, tmp_path / "nowhere", tmp_path)
    with pytest.raises(RequestError, match="no task"):
        tasks_of(",")


@pytest.mark.parametrize(
    ("given", "words"),
    [({"num_beams": 4}, "ask for num_beams"), ({"until": "x", "stop_id": 1}, "ask for stop_id")],
)
def test_sampling_that_is_not_done_here_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        sampling_of(given)


def test_options_that_mean_nothing_here_are_refused(ours: Hermes3LM) -> None:
    with pytest.raises(RequestError, match="batch_size is 8"):
        Hermes3LM(ours.llm, batch_size=8)
    with pytest.raises(RequestError, match="device is 'cuda'"):
        Hermes3LM(ours.llm, device="cuda")


def test_lm_eval_knows_it_by_name(smol_gguf: Path) -> None:
    kind = get_model("hermes3")
    assert kind is Hermes3LM
    given = {"batch_size": 1, "device": None}
    lm = kind.create_from_arg_string(f"pretrained={smol_gguf},max_length=64", given)
    assert lm.max_length == 64
    lm.llm.close()


@pytest.mark.long
def test_lm_evals_own_program_and_no_torch(smol_gguf: Path, shared_data: Path, tmp_path: Path) -> None:
    task = offline("arc_easy", shared_data / "eval", tmp_path)
    code = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name.split('.')[0] == 'torch' else real(name, *a)\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "import runpy; runpy.run_module('hermes3.eval', run_name='__main__')"
    )
    words = ["--model", "hermes3", "--model_args", f"pretrained={smol_gguf}", "--tasks", str(task)]
    words += ["--limit", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "|arc_easy|" in done.stdout
