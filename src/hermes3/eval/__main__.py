"""``python -m hermes3.eval ...``: lm-eval's own command line, which then knows ``--model hermes3``.

lm-eval 0.4.13 has no way for other packages to announce a model to its ``lm_eval`` program.
"""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate

import hermes3.eval.lm  # noqa: F401  registers it

if __name__ == "__main__":
    cli_evaluate()
