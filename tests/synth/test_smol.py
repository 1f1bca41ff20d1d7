"""Our own engine as the teacher, with the real small model."""

from __future__ import annotations

import json
from pathlib import Path

from hermes3.train.data.conversation import Conversation
from hermes3.train.data.files import DataFile, Sample
from tests.cli.program import inside


def test_smol_writes_the_same_twice(tmp_path: Path, smol_gguf: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    names = ("Ada", "Grace", "Alan")
    rows = [{"prompt": f"Say hello to {name}.", "system": "Use few words."} for name in names]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outs = [tmp_path / f"{i}.jsonl" for i in range(2)]
    for out, at_once in zip(outs, ("1", "3"), strict=True):
        options = ["--max-tokens", "64", "--concurrency", at_once, "--near", "1", "--ctx", "512"]
        model = ["--model", str(smol_gguf), "--seeds", str(prompts)]
        done = inside("data", "synth", str(out), *model, *options)
        assert done.returncode == 0, done.stderr
    assert outs[0].read_bytes() == outs[1].read_bytes()
    items = list(DataFile(outs[0]))
    dropped = (tmp_path / "0.dropped.jsonl").read_text().splitlines()
    assert len(items) + len(dropped) >= 3
    for item in items:
        assert isinstance(item, Sample)
        assert isinstance(item.value, Conversation)
        assert [message.role for message in item.value.messages] == ["system", "user", "assistant"]
