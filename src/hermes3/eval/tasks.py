"""The card's tasks: what they are called, where lm-eval keeps them, and how they read data of ours."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hermes3.errors import RequestError
from hermes3.eval.card import card_figures

_GPT4ALL = {  # task: file among lm-eval's tasks
    "arc_challenge": "arc/arc_challenge.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
}
_ON_VALIDATION = {"boolq", "hellaswag", "piqa", "winogrande"}  # tasks that are scored on that split
_BBH = "leaderboard_bbh_"

SUITES = {
    "gpt4all": tuple(_GPT4ALL),
    "agieval": tuple(task for task in card_figures() if task.startswith("agieval_")),
    "bbh": tuple(task for task in card_figures() if task.startswith(_BBH)),
}
SUITES["card"] = SUITES["gpt4all"] + SUITES["agieval"] + SUITES["bbh"]


def tasks_of(names: str) -> list[str]:
    """Tasks of a comma-separated list of suites and tasks, each once."""
    found = [task for name in names.split(",") if name for task in SUITES.get(name, (name,))]
    if not found:
        raise RequestError(f"no task in {names!r}; suites are {', '.join(SUITES)}", param="suite")
    return list(dict.fromkeys(found))


def is_known(task: str) -> bool:
    """Whether it is one of the card's."""
    return task in SUITES["card"]


def packaged(task: str) -> Path:
    """lm-eval's file of one of the card's tasks."""
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    tasks = Path(spec.origin).parent / "tasks"
    if task in _GPT4ALL:
        return tasks / _GPT4ALL[task]
    if task.startswith(_BBH):
        return tasks / "leaderboard" / "bbh_mc" / f"{task.removeprefix(_BBH)}.yaml"
    return tasks / "agieval" / f"{task.removeprefix('agieval_').replace('_', '-')}.yaml"


def offline(task: str, data: Path, folder: Path) -> Path:
    """Writes a task file that is lm-eval's own but reads local data.

    Args:
        data: folder with ``TASK.jsonl`` or ``TASK.jsonl.gz`` (``bbh_x`` for ``leaderboard_bbh_x``), in the
            fields that lm-eval's task reads.
        folder: where to write.

    Raises:
        RequestError: a task that is none of the card's, or has no file there.
    """
    if not is_known(task):
        raise RequestError(f"--data has local files for the card's tasks alone, not for {task}", param="data")
    name = task.removeprefix("leaderboard_")
    files = [file for ending in ("jsonl", "jsonl.gz") if (file := data / f"{name}.{ending}").is_file()]
    if not files:
        raise RequestError(f"no {name}.jsonl or {name}.jsonl.gz in {data}, which {task} reads", param="data")
    split = "validation" if task in _ON_VALIDATION else "test"
    lines = [
        f"include: {packaged(task)}",
        f"task: {task}",
        "dataset_path: json",
        "dataset_name: null",
        "dataset_kwargs:",
        "  data_files:",
        f"    {split}: {files[0].resolve()}",
        "training_split: null",
        *(f"{other}_split: null" for other in ("validation", "test") if other != split),
    ]
    file = folder / f"{task}.yaml"
    file.write_text("\n".join(lines) + "\n")
    return file
