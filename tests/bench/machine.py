"""What machine, and with which versions, something was measured on; nothing that names this one machine among its like.

The rule: a figure without its machine is none, so each bench prints this and writes it beside its figures.
"""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CORES = 2  # what the aims are stated for
# Instructions that decide how fast a network is (proc(5), cpuinfo), and what people call them.
_FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx_vnni": "VNNI", "avx512_bf16": "bf16",
          "amx_bf16": "AMX bf16", "amx_int8": "AMX int8"}  # fmt: skip
_PACKAGES = ("torch", "openvino", "monai", "highdicom", "pydicom", "pynetdicom", "numpy")


@dataclass(frozen=True)
class Machine:
    """What decides how long something takes.

    Parameters
    ----------
    cores
        That this process and its children may use.
    processor
        The name of its kind.
    flags
        Of `_FLAGS`, those that it has.
    memory_gb
        Of the machine.
    versions
        Name to version, of Python, Orthanc and packages.
    busy
        Processes that wanted a processor, on average over the last minute, before anything was measured.
    """

    cores: int
    processor: str
    flags: tuple[str, ...]
    memory_gb: float
    versions: dict[str, str]
    busy: float

    def __str__(self) -> str:
        flags = ", ".join(self.flags) or "none of AVX2, AVX-512, VNNI, bf16"
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"{self.cores} cores of {self.processor} ({flags}), {self.memory_gb:.0f} GB; {versions}; "
            f"load {self.busy:.1f} before"
        )


def describe() -> Machine:
    """The machine, as it is before something is measured."""
    processor, flags = _processor(Path("/proc/cpuinfo").read_text("utf-8"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = {"Python": platform.python_version(), "Orthanc": _orthanc()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return Machine(len(os.sched_getaffinity(0)), processor, flags, memory, versions, os.getloadavg()[0])


def keep_to_cores(number: int = CORES) -> None:
    """Let this process, and all that it starts from now on, run on so many cores: whatever the machine has."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


def _processor(cpuinfo: str) -> tuple[str, tuple[str, ...]]:
    """Name and flags of the first processor."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    has = set(fields.get("flags", fields.get("Features", "")).split())
    found = tuple(dict.fromkeys(told for flag, told in _FLAGS.items() if flag in has))
    return fields.get("model name", platform.machine()), found


def _orthanc() -> str:
    try:
        said = subprocess.run(["Orthanc", "--version"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return "none"
    return said.split()[1] if len(said.split()) > 1 else "unknown"
