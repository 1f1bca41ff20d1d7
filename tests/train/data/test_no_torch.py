"""Data is read without torch, which is an extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).parents[3] / "src" / "hermes3" / "train" / "data"


def test_reading_data_does_not_load_torch() -> None:
    modules = [f"hermes3.train.data.{path.stem}" for path in DATA.glob("*.py") if path.stem != "__init__"]
    assert len(modules) >= 8
    code = f"import sys, importlib\nfor each in {modules}: importlib.import_module(each)\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
