"""Grammars tried in a process of their own first: one that crashes, stalls or swells llguidance harms nobody.

A thread cannot be killed, and llguidance's limits do not hold everywhere: 8,000 rules that lead to each other
overflow its stack (1.9, SIGSEGV), forty intersected terminals take a minute, and after a panic, of which it
takes a backtrace, the debug information of all libraries stays in memory, 50 MB here. This file is both the
parent's side and, run as a script, the child's, which imports nothing of the package. A child is kept for the
next.
"""

from __future__ import annotations

import json
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from llguidance import LLTokenizer

MAX_CPU_S = 2
MAX_WALL_S = 60.0  # where others have the cores
MAX_BYTES = 1 << 30  # of address space; Python and llguidance take 0.3 GB of it
N_AT_ONCE = 2  # children, so that hostile grammars take so many times that and no more, however many come
MAX_WAIT_S = 60.0  # for one of them


class _Limits(TypedDict):
    max_items_in_row: int
    initial_lexer_fuel: int
    step_lexer_fuel: int
    step_max_items: int
    max_lexer_states: int
    max_grammar_size: int
    verbose_errors: bool


LIMITS: _Limits = {
    "max_items_in_row": 600,  # 25 ms a mask of an ambiguous grammar; at llguidance's 2000 it is 0.5 s
    "initial_lexer_fuel": 1_000_000,  # 20 ms
    "step_lexer_fuel": 200_000,  # 14 ms
    "step_max_items": 50_000,  # 2.5 ms
    "max_lexer_states": 50_000,  # 100 MB
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}

_STACK = 4 << 20  # half of what a thread of the parent has
_WHY: dict[int, str] = {
    signal.SIGXCPU: f"takes more than {MAX_CPU_S} s to compile",
    signal.SIGSEGV: "is nested too deep to be compiled",
    signal.SIGABRT: f"is nested too deep or takes more than {MAX_BYTES >> 30} GiB to compile",
}
_idle: list[subprocess.Popen[bytes]] = []
_lock = threading.Lock()
_turns = threading.BoundedSemaphore(N_AT_ONCE)


def fault_of(grammar: str, special: Sequence[str], n_vocab: int) -> str | None:
    """What happened to the process that compiled a grammar, None where it lived. For any thread.

    Args:
        grammar: in llguidance's own form. What is wrong with it that costs nothing, llguidance says itself.
        special: names of the tokens that grammars may name.
        n_vocab: tokens whose numbers they may name.

    Raises:
        Hermes3Error: others had all the children for too long.
    """
    if not _turns.acquire(timeout=MAX_WAIT_S):
        from hermes3.errors import Hermes3Error  # here, for the child has no package

        raise Hermes3Error(
            f"{N_AT_ONCE} other grammars are being tried and this one has waited {MAX_WAIT_S:.0f} s for its "
            "turn; ask again later"
        )
    try:
        return _tried(json.dumps([grammar, list(special), n_vocab]).encode() + b"\n")
    finally:
        _turns.release()


def _tried(question: bytes) -> str | None:
    with _lock:
        child = _idle.pop() if _idle else None
    if child is not None and child.poll() is not None:  # somebody killed it meanwhile
        _end(child)
        child = None
    child = child or _new()
    try:
        panic = _ask(child, question)
        if panic is not None:
            with _lock:
                _idle.append(child)
            return f"makes llguidance panic: {panic}" if panic else None
        fault = _reason(child)
    except BaseException:
        _end(child)
        raise
    _end(child)
    return fault


def _new() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is the parent's
    )


def _ask(child: subprocess.Popen[bytes], question: bytes) -> str | None:
    """The words of a panic, "" where there was none; None where no answer came."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(question)
        child.stdin.flush()
    except BrokenPipeError:
        child.wait(MAX_WALL_S)
        return None
    is_there, _, _ = select.select([child.stdout], [], [], MAX_WALL_S)
    if is_there and (line := child.stdout.readline()):
        return str(json.loads(line))
    if is_there:  # its end of the pipe is closed: it is gone
        child.wait(MAX_WALL_S)
    return None


def _reason(child: subprocess.Popen[bytes]) -> str:
    """Why no answer came."""
    status = child.poll()
    if status is None:
        return f"takes more than {MAX_WALL_S:.0f} s to compile"
    return _WHY.get(-status, f"cannot be compiled: llguidance ended with status {status}")


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def _serve() -> None:
    """The child: compiles what comes, line by line, and says that it is still there, and what panicked."""
    from llguidance import LLMatcher, LLParserLimits

    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limits = LLParserLimits(**LIMITS)
    tokenizers: dict[str, LLTokenizer] = {}
    for line in sys.stdin.buffer:
        grammar, special, n_vocab = json.loads(line)
        key = json.dumps([special, n_vocab])
        if key not in tokenizers:
            tokenizers = {key: _bytes_tokenizer(special, n_vocab)}
        spent = int(time.process_time()) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (spent + MAX_CPU_S, resource.RLIM_INFINITY))
        matcher = LLMatcher(tokenizers[key], grammar, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()
        words = str(matcher.get_error()) if matcher.is_error() else ""
        del matcher
        print(json.dumps(_panic(words)), flush=True)


def _panic(words: str) -> str:
    """What llguidance says of a panic, "" of anything else."""
    before, mark, rest = words.partition("panic: ")
    return rest.partition("\n")[0].strip()[:300] if mark and not before else ""


def _bytes_tokenizer(special: list[str], n_vocab: int) -> LLTokenizer:
    """A vocabulary of bytes, with the names of another one's special tokens."""
    from llguidance import LLTokenizer
    from llguidance._tokenizer import TokenizerWrapper

    class Source:
        bos_token_id = None
        eos_token_id = 256
        special_token_ids = tuple(range(256, 257 + len(special)))
        tokens = (*(bytes([byte]) for byte in range(256)), b"<end>", *(name.encode() for name in special))

        def __call__(self, text: bytes) -> list[int]:
            return list(text)

    Source.tokens += (b"",) * (n_vocab - len(Source.tokens))
    return LLTokenizer(TokenizerWrapper(Source()), eos_token=256)


if __name__ == "__main__":
    threading.stack_size(_STACK)
    server = threading.Thread(target=_serve)
    server.start()
    server.join()
