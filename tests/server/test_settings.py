"""Settings: three sources, one schema."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hermes3.errors import Hermes3Error
from hermes3.server.limits import Limits
from hermes3.server.settings import Settings, as_toml, limits_of, load
from tests.cli.program import inside


def test_a_flag_goes_before_the_environment_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "server.toml"
    values = 'port = 1\nhost = "a"\nctx = 512\nallowed_host = ["x", "y"]'
    file.write_text(f"{values}\n[limits]\ndrain_s = 1\nping_s = 2")
    monkeypatch.setenv("HERMES3_HOST", "b")
    monkeypatch.setenv("HERMES3_PORT", "2")
    monkeypatch.setenv("HERMES3_API_KEY", "one two")
    monkeypatch.setenv("HERMES3_LIMITS__DRAIN_S", "3")
    monkeypatch.setenv("HERMES3_HOME", "/somewhere")
    settings = load({"port": 3, "limits": {"body_s": "4"}}, file)
    assert (settings.port, settings.host, settings.ctx) == (3, "b", 512)
    assert (settings.allowed_host, settings.api_key) == (("x", "y"), ("one", "two"))
    assert limits_of(settings) == Limits(drain_s=3, ping_s=2, body_s=4)
    assert load({}, None).port == 2


def test_what_is_printed_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    given = {"host": '0.0.0.0" # \\ \u007f é', "cors_origin": ["https://a"], "limits": {"drain_s": 7}}
    settings = load(given, None)
    file = tmp_path / "server.toml"
    file.write_text(as_toml(settings), "utf-8")
    again = load({}, file)
    assert limits_of(again) == limits_of(settings)
    assert again.model_dump(exclude={"limits"}) == settings.model_dump(exclude={"limits"})
    shown = file.read_text("utf-8")
    assert all(name in shown for name in Settings.model_fields)
    assert all(name in shown for name in Limits.__annotations__)


def test_keys_are_not_printed() -> None:
    shown = as_toml(load({"api_key": ["hidden"]}, None))
    assert "hidden" not in shown
    assert "1 given, not shown" in shown


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("port = 1\nports = 2", "ports: is no setting"),
        ('port = "x"', "port: Input should be a valid integer"),
        ("port = 70000", "port: Input should be less than or equal to 65535"),
        ("port = ", "cannot be read"),
        ('log_format = "xml"', "log_format: Input should be 'text' or 'json'"),
        ("[limits]\ndrain = 1", "'drain' is no limit"),
        ("[limits]\ndrain_s = -1", "drain_s is '-1"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, why: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(content)
    with pytest.raises(Hermes3Error, match=why):
        load({}, file)
    with pytest.raises(Hermes3Error, match="cannot be read"):
        load({}, tmp_path / "nothing")


def test_the_command_prints_them() -> None:
    done = inside("serve", "--port", "9", "--limit", "drain_s=60", "--print-config")
    assert done.returncode == 0, done.stderr
    printed = tomllib.loads(done.stdout)
    assert (printed["port"], printed["limits"]["drain_s"], printed["host"]) == (9, 60, "127.0.0.1")
