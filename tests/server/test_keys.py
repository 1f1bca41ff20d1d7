"""Keys: where they come from, what is kept of them, what each may ask for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from hermes3.errors import Hermes3Error
from hermes3.server.app import create_app
from hermes3.server.keys import Allowance, Keys
from hermes3.server.limits import Limits
from tests.llm.fakes import fake_llm, saying
from tests.server.live import live


def test_keys_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    hashed = hashlib.sha256(b"two").hexdigest()
    file.write_text(f"# who may ask\none alice\nsha256:{hashed} bob the builder  # hired in May\n\nthree\n")
    keys = Keys.of(["zero"], file)
    given = ["zero", "one", "two", "three", "four", "", hashed, f"sha256:{hashed}"]
    expected = ["key-1", "alice", "bob the builder", "line-5", None, None, None, None]
    assert [keys.name_of(key) for key in given] == expected
    assert not any(key in repr(keys) for key in ("zero", "one'", "three"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no key"),
        (b"# nobody\n", "holds no key"),
        (b"one a\ntwo a\n", "line 2: the name 'a' was given before"),
        (b"\xff\xfe", "cannot be read"),
        (b"k\n" * (1 << 20), "is larger than"),
    ],
)
def test_files_that_will_not_do(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(Hermes3Error, match=why):
        Keys.of((), tmp_path / "keys")
    with pytest.raises(Hermes3Error, match="cannot be read"):
        Keys.of((), tmp_path / "nothing")


def test_an_allowance_fills_again() -> None:
    now = 100.0
    allowance = Allowance(60, clock=lambda: now)
    allowance.take("a", 50)
    assert (allowance.wait_s("a", 10), allowance.wait_s("a", 15), allowance.wait_s("b", 60)) == (0, 5, 0)
    now += 3
    assert allowance.wait_s("a", 15) == 2
    allowance.take("a", -1000)
    assert allowance.wait_s("a", 60) == 0, "never more than a minute's"
    assert allowance.wait_s("a", 61) > 0


def ask(address: str, key: str, **body: object) -> httpx.Response:
    asked = {"model": "fake", "prompt": "x", "max_tokens": 10, **body}
    return httpx.post(f"{address}/v1/completions", json=asked, headers={"authorization": f"Bearer {key}"})


def test_each_key_has_its_own_allowance() -> None:
    llm, _ = fake_llm(saying("Yes."))
    with (
        llm,
        live(create_app(llm, api_keys=["a", "b"], limits=Limits(requests_per_minute=2))) as address,
    ):
        assert [ask(address, "a").status_code for _ in range(3)] == [200, 200, 429]
        refused = ask(address, "a")
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert "key-1" in refused.json()["error"]["message"]
        assert ask(address, "b").status_code == 200
        assert ask(address, "b", n=3).json()["error"]["code"] == "request_too_large"


def test_tokens_that_were_not_used_are_given_back() -> None:
    llm, _ = fake_llm(saying("Yes."))  # 4 tokens and the end, after a prompt of 1
    with (
        llm,
        live(create_app(llm, api_keys=["a"], limits=Limits(tokens_per_minute=100))) as address,
    ):
        assert [ask(address, "a", max_tokens=80).status_code for _ in range(3)] == [200, 200, 200]
        assert ask(address, "a", max_tokens=95).status_code == 429
        assert ask(address, "a", max_tokens=100).status_code == 400


def test_an_allowance_needs_keys() -> None:
    llm, _ = fake_llm()
    with llm, pytest.raises(Hermes3Error, match="are for each API key: set keys"):
        create_app(llm, limits=Limits(tokens_per_minute=100))
