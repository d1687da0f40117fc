"""Which module may import which: the rules of the architecture, read from the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from orthanc_plugin.settings import REPOSITORY

OURS = ("orthanc_plugin", "models", "dicom_sr", "training")
# What encoder, worker and training all speak: what is said about an image, and about a study.
PICTURES = "models.resampling"  # arrays in, arrays out: of it networks and people get their pictures
VOCABULARY = ("models.findings", "models.names", "models.study")
HEAVY = {"torch", "monai", "highdicom", "openvino"}
# What a package of the node may import beside itself; the modules beside the packages are the base.
MAY_IMPORT: dict[str, set[str]] = {
    "base": set(),
    "access": {"base", "ledger"},
    "ledger": {"base"},
    "archive": {"base", "ledger"},
    "reading": {"base", "ledger", "archive"},
    "delivery": {"base", "ledger", "archive"},
    "working": {"base", "ledger", "archive", "reading", "delivery"},
    "worklist": set(),
    "viewer": set(),
    "hosting": {"base", "access", "ledger", "worklist", "viewer"},
    "commands": {
        "base",
        "access",
        "ledger",
        "archive",
        "reading",
        "delivery",
        "working",
        "worklist",
        "viewer",
        "hosting",
    },
}
# They put the packages together: they may import any, and nothing imports them.
ENTRANCES = {"orthanc_plugin.plugin", "orthanc_plugin.cli"}
# What the Orthanc process loads: a crash or a slow import here is the PACS's.
INSIDE_ORTHANC = (
    "orthanc_plugin.plugin",
    "orthanc_plugin.hosting.routes",
    "orthanc_plugin.hosting.study_page",
    "orthanc_plugin.hosting.admin_page",
    "orthanc_plugin.hosting.metrics",
    "orthanc_plugin.worklist.study_view",
    "orthanc_plugin.hosting.reading_page",
    "orthanc_plugin.hosting.marking",
    "orthanc_plugin.hosting.guard",
    "orthanc_plugin.hosting.login",
    "orthanc_plugin.hosting.trail",
    "orthanc_plugin.hosting.in_hand",
    "orthanc_plugin.access.audit",
    "orthanc_plugin.settings",
    "orthanc_plugin.working.supervisor",
    "orthanc_plugin.ledger.tasks",
    "orthanc_plugin.hosting.arrivals",
    "orthanc_plugin.ledger.ownership",
    "orthanc_plugin.hosting.health",
    "orthanc_plugin.ledger.database",
    "orthanc_plugin.ledger.notes",
    "orthanc_plugin.ledger.views",
    "orthanc_plugin.ledger.pages",
    "orthanc_plugin.ledger.marks",
    "orthanc_plugin.ledger.mark_history",
    "orthanc_plugin.archive.attachments",
    "orthanc_plugin.failpoints",
    "orthanc_plugin.working.worker_process",
    "orthanc_plugin.logs",
    "orthanc_plugin.worklist.rows",
    "orthanc_plugin.worklist.page",
    "orthanc_plugin.viewer.serving",
    "dicom_sr.ownership",
)

# What a reading process loads beside: torch and MONAI are 400 MB and seconds of each start.
INSIDE_A_READING_PROCESS = (
    "orthanc_plugin.working.reading_loop",
    "orthanc_plugin.reading.active_models",
    "orthanc_plugin.reading.intake_process",
    "orthanc_plugin.reading.study",
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
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{path}: imports name the whole module"
            found.add(str(statement.module))
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
    assert module in map(module_name, source_files())
    loaded = {name.split(".")[0] for name in reached_from(module, set())}
    assert not loaded & HEAVY, f"{module} leads to {sorted(loaded & HEAVY)}: do that in the worker process"


@pytest.mark.parametrize("module", INSIDE_A_READING_PROCESS)
def test_a_reading_process_loads_torch_and_monai_only_where_torch_answers(module: str) -> None:
    assert module in map(module_name, source_files())
    loaded = {name.split(".")[0] for name in reached_from(module, set())}
    assert not loaded & {"torch", "monai"}, f"{module} leads to them: import them in the function that needs them"


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    module, names = module_name(path), imports(path)
    packages = {name.split(".")[0] for name in names}
    ours = {name for name in names if name.split(".")[0] == "models"}
    if module in VOCABULARY:
        assert packages <= {"__future__", "dataclasses", "enum", "models", "numpy"}, f"{module}: shared by everything"
        assert all(name.startswith("models.findings") for name in ours), f"{module}: shared by everything"
    if module == PICTURES:
        assert packages <= {"__future__", "dataclasses", "models", "numpy", "PIL"}, f"{module}: shared with dicom_sr"
        assert all(name.startswith("models.findings") for name in ours), f"{module}: shared with dicom_sr"
    if module.startswith("models"):
        assert not packages & {"orthanc_plugin", "dicom_sr", "training"}, f"{module}: models know nothing of the node"
    if module.startswith("dicom_sr"):
        assert not packages & {"torch", "monai", "openvino", "orthanc_plugin", "training"}, (
            f"{module}: encodes, no more"
        )
        known = {*VOCABULARY, "models", PICTURES}
        assert {".".join(name.split(".")[:2]) for name in ours} <= known, f"{module}: only findings"
    if module.startswith("orthanc_plugin") and module != "orthanc_plugin.plugin":
        assert "orthanc" not in packages, f"{module}: only plugin.py imports orthanc"
    if module.startswith("training"):
        assert "orthanc_plugin" not in packages, f"{module}: training knows models, not the node"


def package_of(name: str) -> str:
    """The package of the node in which a module, or a name that is imported from one, lives."""
    part = name.removeprefix("orthanc_plugin").removeprefix(".").partition(".")[0]
    return part if part in MAY_IMPORT else "base"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "orthanc_plugin").rglob("*.py")), ids=module_name)
def test_packages_of_the_node_import_one_way(path: Path) -> None:
    module = module_name(path)
    names = {name for name in imports(path) if name.split(".")[0] == "orthanc_plugin"}
    assert not names & ENTRANCES, f"{module}: nothing imports {sorted(ENTRANCES)}"
    # ``from orthanc_plugin import x`` names the root as well, which is no module of the base
    met = {package_of(name) for name in names - {"orthanc_plugin"}} - {package_of(module)}
    if module not in ENTRANCES:
        assert met <= MAY_IMPORT[package_of(module)], f"{module} may not import {sorted(met)}"


def test_every_package_of_the_node_has_its_line() -> None:
    folders = {path.parent.name for path in (REPOSITORY / "orthanc_plugin").glob("*/__init__.py")}
    assert folders == set(MAY_IMPORT) - {"base"}


def test_the_project_speaks_of_itself_alone() -> None:
    """No absolute path of a machine and no registry host in any text that we ship."""
    forbidden = re.compile(r"/work/|/root/|/home/\w+/|/opt/wheels|registry\.npmjs|pypi\.org|files\.pythonhosted")
    for path in [
        *REPOSITORY.glob("*.*"),
        REPOSITORY / "hilum",
        *(q for p in (*OURS, "docker") for q in (REPOSITORY / p).rglob("*")),
    ]:
        if path.is_file() and path.suffix in {
            ".py",
            ".md",
            ".json",
            ".toml",
            ".lock",
            ".js",
            ".html",
            ".txt",
            ".yaml",
            ".conf",
            "",
        }:
            match = forbidden.search(path.read_text("utf-8"))
            assert match is None, f"{path.relative_to(REPOSITORY)} holds {match and match[0]!r}"


def test_modules_stay_rooms() -> None:
    long = {module_name(p): n for p in source_files() if (n := len(p.read_text("utf-8").splitlines())) > 400}
    assert not long, f"split these, style asks for about 300 lines: {long}"


def test_no_two_test_modules_share_a_name() -> None:
    """Pytest imports them by their bare names, and so do the processes that tests start."""
    names = [path.name for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
