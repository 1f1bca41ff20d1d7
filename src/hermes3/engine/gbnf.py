"""llama.cpp's grammars (GBNF) in the language that the compiler reads, by llguidance's own converter.

https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

from __future__ import annotations

from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax

from hermes3.errors import RequestError

MAX_CHARS = 1 << 14  # the converter is Python and takes quadratic time: 1 s for the worst of this size


def lark_of(text: str, *, param: str = "grammar") -> str:
    """The same grammar in llguidance's dialect of Lark; text that is Lark already stays as it is.

    Args:
        param: what errors call it.

    Raises:
        RequestError: it is too long, or the converter does not take it (its words).
    """
    if is_lark_syntax(text):
        return text
    if len(text) > MAX_CHARS:
        raise RequestError(
            f"{param} has {len(text)} characters of GBNF, at most {MAX_CHARS} are converted; "
            "write it in Lark, which may be longer",
            param=param,
        )
    try:
        return gbnf_to_lark(text)
    except RecursionError as error:
        raise RequestError(f"{param} is nested too deeply", param=param) from error
    except Exception as error:  # the converter raises Exception itself
        raise RequestError(f"{param} is no GBNF: {str(error)[:300]}", param=param) from error
