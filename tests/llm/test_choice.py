"""Which engine, by name: what each takes, and that nothing of the other's is swallowed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from hermes3.convert.to_folder import files_beside, write_beside
from hermes3.engine.vllm.options import VllmOptions
from hermes3.errors import FormatError, Hermes3Error, RequestError
from hermes3.llm import LLM, EngineChoice, on_vllm
from hermes3.server.settings import load
from hermes3.weights.checkpoint import open_checkpoint
from tests.cli.program import inside
from tests.engine.fake_vllm import install


def choice(name: str, **given: Any) -> EngineChoice:
    return EngineChoice.of(name, **{"n_ctx": None, "n_sequences": None, "given": {}, **given})


def test_each_engine_gets_its_own() -> None:
    own = choice("hermes3", n_ctx=9, n_sequences=2, given={"threads": 3, "latency_s": 0.5})
    assert own == EngineChoice({"n_ctx": 9, "n_sequences": 2, "n_threads": 3, "latency_s": 0.5})
    other = choice("vllm", n_ctx=9, n_sequences=2, given={"dtype": "float16"})
    assert other.vllm == VllmOptions(max_model_len=9, max_num_seqs=2, dtype="float16")
    assert pickle.loads(pickle.dumps(other)) == other


@pytest.mark.parametrize(
    ("name", "given", "param"),
    [
        ("vllm", {"given": {"threads": 2}}, "threads"),
        ("hermes3", {"given": {"tensor_parallel_size": 2}}, "tensor_parallel_size"),
        ("tgi", {}, "engine"),
        ("vllm", {"given": {"dtype": "int4"}}, "dtype"),
    ],
)
def test_what_an_engine_does_not_have_is_named(name: str, given: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        choice(name, **given)
    assert caught.value.param == param


def test_settings_choose(tmp_path: Path) -> None:
    assert load({}, None).engine_choice() == choice("hermes3")
    file = tmp_path / "server.toml"
    file.write_text('engine = "vllm"\nctx = 100\ntensor_parallel_size = 2\nlatency_s = 0.25')
    assert load({}, file).engine_choice().vllm == VllmOptions(max_model_len=100, tensor_parallel_size=2)
    for flags, why in (
        ({"engine": "vllm", "latency_s": 1}, "latency_s is no option of the engine vllm"),
        ({"dtype": "float16"}, "dtype is no option of the engine hermes3"),
        ({"engine": "vllm", "dtype": "int4"}, "dtype: Input should be 'auto', 'float32'"),
    ):
        with pytest.raises(Hermes3Error, match=why):
            load(flags, None)


def test_the_commands_refuse_what_cannot_be(
    smol_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_folder_of(smol_gguf, tmp_path / "m")
    monkeypatch.setattr("hermes3.engine.vllm.client.find_spec", lambda name: None)
    (tmp_path / "in").write_text("")
    files = (str(tmp_path / "in"), str(tmp_path / "out"))
    for command in (("serve", "--port", "0"), ("batch", *files)):
        for words, why in (
            (("--engine", "vllm", "--threads", "2"), "threads is no option of the engine vllm"),
            (("--dtype", "float16"), "dtype is no option of the engine hermes3"),
            (("--engine", "vllm"), "pip install 'hermes3[vllm]'"),
        ):
            done = inside(*command, "--model", str(tmp_path / "m"), *words)
            assert (done.returncode, why in done.stderr) == (1, True), done.stderr


def test_a_hall_on_vllm(monkeypatch: pytest.MonkeyPatch, smol_gguf: Path, tmp_path: Path) -> None:
    """Texts are read here, numbers are vLLM's: over a script in its place."""
    to_folder_of(smol_gguf, tmp_path / "Small-1.5")
    with LLM(smol_gguf, n_ctx=64) as own:
        prompt, said = own.encode_chat("Hello"), own.tokenizer.encode("Bonjour, Nîmes!")
        end = own.tokenizer.token_id("<|im_end|>")
    fake = install(monkeypatch, lambda ids, params: [*said, end], n_vocab=49152)
    with on_vllm(tmp_path / "Small-1.5") as llm:
        reply = llm.chat("Hello", temperature=0, max_tokens=50)
        assert (reply.text, reply.finish_reason) == ("Bonjour, Nîmes!", "stop")
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(prompt), len(said) + 1)
        assert (llm.name, llm.n_ctx, llm.cached_tokens(llm.prepare("Hello"))) == ("Small-1.5", 500, None)
        assert llm.load().n_generated == len(said) + 1
        assert llm.chat("Hello", temperature=0, max_tokens=50, forced_spans=True).forced_spans == ()
        with pytest.raises(RequestError, match="scores no given texts"):
            llm.score([([1], [2])])
    (ids, params, _), *_ = fake.asked
    assert ids == prompt
    assert end in params.stop_token_ids
    assert fake.is_shut
    with pytest.raises(FormatError, match="is no folder"):
        on_vllm(smol_gguf)


def test_a_vllm_that_dies_is_seen_without_a_request(
    monkeypatch: pytest.MonkeyPatch, smol_gguf: Path, tmp_path: Path
) -> None:
    to_folder_of(smol_gguf, tmp_path / "m")
    fake = install(monkeypatch, lambda ids, params: [5], n_vocab=49152)
    with on_vllm(tmp_path / "m") as llm:
        assert llm.failure is None
        fake.errored = True
        assert "vLLM's engine has ended" in str(llm.failure)
        with pytest.raises(Hermes3Error, match="vLLM's engine has ended"):
            llm.chat("Hello")


def to_folder_of(gguf: Path, folder: Path) -> None:
    """What a folder says beside its weights, which the script does not read."""
    checkpoint = open_checkpoint(gguf)
    folder.mkdir()
    (folder / "model.safetensors").touch()
    write_beside(checkpoint, folder, files_beside(checkpoint, "float32"))
