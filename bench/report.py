"""What a measurement is written down as: a JSON file for each machine, and a table in the README."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hermes3 import _native

ROOT = Path(__file__).parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "bench" / "results"
BEGIN, END = "<!-- numbers:begin -->", "<!-- numbers:end -->"


@dataclass(frozen=True)
class Limits:
    """What the machine can do at one moment, on all threads of the run."""

    load: float
    read_gb_s: float
    int8_gop_s: float

    @classmethod
    def now(cls, n_threads: int) -> Limits:
        load = os.getloadavg()[0]
        _native.set_threads(n_threads)
        return cls(round(load, 2), round(_native.read_bandwidth(1.0), 1), round(_native.int8_peak(1.0), 1))


@dataclass
class Row:
    """One line of the table.

    Attributes:
        goal: a rate's goal is its ratio to the peer's median; any other's is the value to stay under.
        kind: "rate" where more is better and there is a peer, "below" for a value by itself.
        limits: what the machine could do before and after.
    """

    name: str
    unit: str
    goal: float
    kind: str = "rate"
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    limits: list[Limits] = field(default_factory=list)
    date: str = ""

    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.theirs)

    def is_reached(self) -> bool:
        return self.ratio() >= self.goal if self.kind == "rate" else statistics.median(self.ours) < self.goal

    def markdown(self) -> str:
        ours, verdict = statistics.median(self.ours), "" if self.is_reached() else " **missed**"
        if self.kind == "rate":
            theirs = f"{statistics.median(self.theirs):.1f} {self.unit}"
            cells = [theirs, f"{ours:.1f} {self.unit}", f"{self.ratio():.2f}x", f"{self.goal}x{verdict}"]
        else:
            cells = ["", f"{ours:.2f} {self.unit}", "", f"under {self.goal} {self.unit}{verdict}"]
        return f"| {' | '.join([self.name, *cells])} |"


@dataclass(frozen=True)
class Machine:
    """What the figures belong to. ``model`` is /proc/cpuinfo's family and model: names are ambiguous."""

    cpu: str
    model: str
    cores: int
    instruction_set: str
    memory_gib: int
    system: str

    @classmethod
    def this(cls) -> Machine:
        info = Path("/proc/cpuinfo")
        text = info.read_text() if info.exists() else ""
        known = dict(re.findall(r"^([\w ]+?)\s*: (.+)$", text, re.MULTILINE))
        return cls(
            cpu=known.get("model name") or platform.processor() or platform.machine(),
            model=f"{known.get('cpu family', '?')}/{known.get('model', '?')}",
            cores=_native.physical_cores(),
            instruction_set=_native.isa(),
            memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
            system=f"{platform.system()} {platform.release()}",
        )

    def slug(self) -> str:
        name = f"{self.cpu} {self.model} {self.instruction_set}"
        return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@dataclass
class Report:
    """The rows measured on one machine, whenever each was."""

    machine: Machine
    peer: str
    threads: int
    rounds: int
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def load(cls, peer: str, threads: int, rounds: int) -> Report:
        """With the rows that this machine's file has."""
        report = cls(Machine.this(), peer, threads, rounds)
        if report.path.exists():
            for saved in json.loads(report.path.read_text())["rows"]:
                limits = [Limits(**each) for each in saved.pop("limits")]
                report.rows.append(Row(**saved, limits=limits))
        return report

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.machine.slug()}.json"

    def put(self, row: Row) -> None:
        """In the place of an earlier row of its name."""
        self.rows = [each for each in self.rows if each.name != row.name] + [row]

    def markdown(self) -> str:
        """The table, and under it what the machine is and could do."""
        at, limits = self.machine, [each for row in self.rows for each in row.limits]

        def span(values: list[float]) -> str:
            return f"{min(values)} to {max(values)} (median {statistics.median(values):.1f})"

        load, read, int8 = (
            span([getattr(each, name) for each in limits]) for name in ("load", "read_gb_s", "int8_gop_s")
        )
        return "\n".join([
            "| | llama.cpp | hermes3 | ratio | goal |",
            "|---|---:|---:|---:|---:|",
            *(row.markdown() for row in self.rows),
            "",
            f"Medians of up to {self.rounds} alternating rounds on {self.threads} threads, "
            f"{max(row.date for row in self.rows)}, on {at.cpu} (family and model {at.model}, "
            f"{at.instruction_set}), {at.cores} cores, {at.memory_gib} GiB. Before and after each row: "
            f"load {load}, read bandwidth {read} GB/s, int8 rate {int8} Gop/s. 3B is the shape of "
            f"Llama-3.2-3B with random weights. The peer is {self.peer}. To repeat it: `make bench`.",
        ])  # fmt: skip

    def save(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def write_readme(self) -> None:
        head, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{head}{BEGIN}\n{self.markdown()}\n{END}{rest.partition(END)[2]}")
