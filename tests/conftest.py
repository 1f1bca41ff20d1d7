"""Data that tests need and the repository does not hold. Where it is missing, they skip, loudly."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from tests import downloads

ROOT = Path(__file__).parent.parent
MISSING = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MISSING] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash[MISSING]:
        terminalreporter.write_line(f"TESTS SKIPPED FOR WANT OF DATA: {line}", red=True, bold=True)


def _skip_loudly(config: pytest.Config, why: str) -> None:
    if why not in config.stash[MISSING]:
        config.stash[MISSING].append(why)
    pytest.skip(why)


def _fetched(config: pytest.Config, fetch: Callable[[], Path]) -> Path:
    try:
        path = fetch()
    except downloads.UnreachableError as error:
        _skip_loudly(config, str(error))
    if not path.is_file():
        _skip_loudly(config, f"{path} is not a file")
    return path


@pytest.fixture(scope="session")
def shared_data(pytestconfig: pytest.Config) -> Path:
    """The folder of evaluation, function-call and training data: HERMES3_TEST_DATA or ../shared/data."""
    folder = Path(os.environ.get("HERMES3_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        _skip_loudly(pytestconfig, f"no folder {folder}; name it with HERMES3_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def smol_gguf(pytestconfig: pytest.Config) -> Path:
    """SmolLM2-135M-Instruct.Q4_1.gguf (98 MB)."""
    return _fetched(pytestconfig, downloads.smol_gguf)


@pytest.fixture(scope="session")
def llama3_tokenizer_model(pytestconfig: pytest.Config) -> Path:
    """tokenizer.model of Llama 3, tiktoken's format: lines of base64 and rank."""
    return _fetched(pytestconfig, downloads.llama3_tokenizer_model)


@pytest.fixture(scope="session")
def llama_cpp(pytestconfig: pytest.Config) -> Path:
    """The folder of llama.cpp's programs and libraries: HERMES3_LLAMA_CPP."""
    given = os.environ.get("HERMES3_LLAMA_CPP")
    if given is None or not (Path(given) / "llama-quantize").is_file():
        _skip_loudly(pytestconfig, "no llama.cpp; HERMES3_LLAMA_CPP names the folder of llama-quantize")
    return Path(given)


@pytest.fixture(scope="session")
def chromium(pytestconfig: pytest.Config) -> Path:
    """The browser of the page's tests: HERMES3_CHROMIUM, or chromium in the path."""
    given = os.environ.get("HERMES3_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if given is None or not Path(given).is_file():
        _skip_loudly(pytestconfig, "no chromium (apt-get install chromium); HERMES3_CHROMIUM names one")
    return Path(given)


@pytest.fixture(scope="session")
def openai_document(pytestconfig: pytest.Config) -> Path:
    """openapi.json of github.com/openai/openai-openapi: HERMES3_OPENAI_DOCUMENT, or with the other data."""
    shared = os.environ.get("HERMES3_TEST_DATA", ROOT.parent / "shared" / "data")
    path = Path(os.environ.get("HERMES3_OPENAI_DOCUMENT", Path(shared) / "openai" / "openapi.json"))
    if not path.is_file():
        _skip_loudly(pytestconfig, f"no file {path}; HERMES3_OPENAI_DOCUMENT names OpenAI's openapi.json")
    return path


@pytest.fixture(scope="session")
def compatcanary(pytestconfig: pytest.Config) -> list[str]:
    """The command of the npm package's program: HERMES3_COMPATCANARY names the folder of the package."""
    given, node = os.environ.get("HERMES3_COMPATCANARY"), shutil.which("node")
    if node is None or given is None or not (Path(given) / "src" / "cli.js").is_file():
        why = "no compatcanary; HERMES3_COMPATCANARY names the folder that `npm pack compatcanary` unpacks to"
        _skip_loudly(pytestconfig, why)
    return [node, str(Path(given) / "src" / "cli.js")]


@pytest.fixture
def extra_client(pytestconfig: pytest.Config) -> Callable[[str], ModuleType]:
    """Imports a client that no extra of ours holds, or skips."""

    def imported(name: str) -> ModuleType:
        if find_spec(name) is None:
            package = name.replace("_", "-")
            _skip_loudly(pytestconfig, f"{package} is not installed (pip install {package})")
        return import_module(name)

    return imported


@pytest.fixture(scope="session")
def vllm_installed(pytestconfig: pytest.Config) -> None:
    """vLLM itself, too heavy for the extra `test`."""
    if find_spec("vllm") is None:
        _skip_loudly(pytestconfig, "no vLLM in this environment; tests/engines.py says how its tests are run")


@pytest.fixture(scope="session")
def ray_installed(pytestconfig: pytest.Config) -> None:
    """Ray with Ray Data, too heavy for the extra `test`."""
    if find_spec("ray") is None:
        _skip_loudly(pytestconfig, "no Ray in this environment (pip install 'ray[data]')")
