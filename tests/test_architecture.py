"""Which module may import which: the rules of the architecture, read from the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from orthanc_plugin.settings import REPOSITORY

OURS = ("orthanc_plugin", "models", "dicom_sr", "training")
HEAVY = {"torch", "monai", "highdicom", "openvino"}
# What the Orthanc process loads: a crash or a slow import here is the PACS's.
INSIDE_ORTHANC = (
    "orthanc_plugin.plugin",
    "orthanc_plugin.routes",
    "orthanc_plugin.settings",
    "orthanc_plugin.supervisor",
    "orthanc_plugin.tasks",
    "orthanc_plugin.arrivals",
    "orthanc_plugin.archive",
    "orthanc_plugin.health",
    "orthanc_plugin.ledger",
    "orthanc_plugin.ledger_notes",
    "orthanc_plugin.ledger_views",
    "orthanc_plugin.failpoints",
    "orthanc_plugin.worker_process",
    "orthanc_plugin.logs",
    "orthanc_plugin.worklist.rows",
    "orthanc_plugin.worklist.page",
    "orthanc_plugin.viewer.serving",
    "dicom_sr.ownership",
)


def source_files() -> list[Path]:
    return [p for package in OURS for p in sorted((REPOSITORY / package).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    found: set[str] = set()
    for statement in tree.body if top_level_only else ast.walk(tree):
        if isinstance(statement, ast.Import):
            found.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            found.add(statement.module)
            found.update(f"{statement.module}.{alias.name}" for alias in statement.names)
    return found


def reached_from(module: str, seen: set[str]) -> set[str]:
    """Every module of ours that importing `module` loads, and every foreign one that they import."""
    path = REPOSITORY / (module.replace(".", "/") + ".py")
    path = path if path.exists() else REPOSITORY / module.replace(".", "/") / "__init__.py"
    if module in seen or not path.exists():
        return seen | {module}
    seen = seen | {module}
    parents = {module.rpartition(".")[0]} - {""}
    for name in imports(path, top_level_only=True) | parents:
        seen = reached_from(name, seen)
    return seen


@pytest.mark.parametrize("module", INSIDE_ORTHANC)
def test_the_orthanc_process_never_loads_a_model_library(module: str) -> None:
    loaded = {name.split(".")[0] for name in reached_from(module, set())}
    assert not loaded & HEAVY, f"{module} leads to {sorted(loaded & HEAVY)}: do that in the worker process"


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    module, names = module_name(path), imports(path)
    packages = {name.split(".")[0] for name in names}
    if module == "models.findings":
        assert packages <= {"__future__", "dataclasses", "enum", "typing", "numpy"}, "findings is the shared vocabulary"
    if module.startswith("models"):
        assert not packages & {"orthanc_plugin", "dicom_sr", "training"}, f"{module}: models know nothing of the node"
    if module.startswith("dicom_sr"):
        assert not packages & {"torch", "monai", "openvino", "orthanc_plugin", "training"}, (
            f"{module}: encodes, no more"
        )
        ours = {name for name in names if name.split(".")[0] == "models"}
        assert all(name.startswith("models.findings") or name == "models" for name in ours), f"{module}: only findings"
    if module.startswith("orthanc_plugin") and module != "orthanc_plugin.plugin":
        assert "orthanc" not in packages, f"{module}: only plugin.py imports orthanc"
    if module.startswith("training"):
        assert "orthanc_plugin" not in packages, f"{module}: training knows models, not the node"


def test_the_project_speaks_of_itself_alone() -> None:
    """No absolute path of a machine and no registry host in any text that we ship."""
    forbidden = re.compile(r"/work/|/root/|/home/\w+/|/opt/wheels|registry\.npmjs|pypi\.org|files\.pythonhosted")
    for path in [
        *REPOSITORY.glob("*.*"),
        REPOSITORY / "hilum",
        *(q for p in OURS for q in (REPOSITORY / p).rglob("*")),
    ]:
        if path.is_file() and path.suffix in {".py", ".md", ".json", ".toml", ".lock", ".js", ".html", ".txt", ""}:
            match = forbidden.search(path.read_text("utf-8"))
            assert match is None, f"{path.relative_to(REPOSITORY)} holds {match and match[0]!r}"


def test_modules_stay_rooms() -> None:
    long = {module_name(p): n for p in source_files() if (n := len(p.read_text("utf-8").splitlines())) > 400}
    assert not long, f"split these, style asks for about 300 lines: {long}"
