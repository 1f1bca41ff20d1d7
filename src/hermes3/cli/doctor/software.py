"""Python, packages, and whether the compiled kernels load."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from types import ModuleType

from packaging.requirements import Requirement

from hermes3.cli.doctor.report import Finding, Section

REINSTALL = "pip install --force-reinstall --no-deps ."  # in the folder of the sources


def look() -> tuple[ModuleType | None, Section]:
    """The compiled kernels, None where they or a package are missing; and what was found."""
    section = Section("software")
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    own = _version("hermes3")
    section.facts = {"hermes3": own, "python": platform.python_version(), "system": system}
    section.lines.append(("hermes3", f"{own or 'not installed'}, in {os.path.dirname(_own_file())}"))
    section.lines.append(("Python", f"{platform.python_version()}, {sys.executable}"))
    section.lines.append(("system", system))
    if own is None:
        section.findings.append(
            Finding("hermes3 runs from its sources and is not installed", "pip install .", is_wrong=False)
        )
    is_whole = _packages(section)
    native = _native(section)
    return native if is_whole else None, section


def _packages(section: Section) -> bool:
    """Versions of what hermes3 needs, extras aside; whether all of it is there."""
    needed = [need for need in _requirements() if need.marker is None or need.marker.evaluate({"extra": ""})]
    found = {need.name: _version(need.name) for need in needed}
    section.facts["packages"] = found
    listed = [f"{name} {number}" for name, number in found.items() if number]
    section.lines += [("packages" if not at else "", ", ".join(listed[at : at + 4])) for at in
                      range(0, len(listed), 4)]  # fmt: skip
    if missing := [name for name, number in found.items() if number is None]:
        verb = "is" if len(missing) == 1 else "are"
        section.findings.append(
            Finding(f"{', '.join(missing)} {verb} not installed", f"pip install {' '.join(missing)}")
        )
    for need in needed:
        number = found[need.name]
        if number and not need.specifier.contains(number, prereleases=True):
            what = f"{need.name} {number} is installed, hermes3 needs {need.specifier}"
            section.findings.append(Finding(what, f"pip install '{need.name}{need.specifier}'"))
    return not missing


def _native(section: Section) -> ModuleType | None:
    try:
        native = importlib.import_module("hermes3._native")
    except ImportError as error:
        forced = os.environ.get("HERMES3_ISA")
        is_forced = forced is not None and forced in str(error)
        mend = "unset HERMES3_ISA" if is_forced else REINSTALL
        section.facts["kernels"] = None
        section.findings.append(Finding(f"the compiled kernels do not load: {error}", mend))
        return None
    section.facts["kernels"] = native.__file__
    return native


def _own_file() -> str:
    return importlib.import_module("hermes3").__file__ or ""


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(line) for line in requires("hermes3") or []]
    except PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
