"""The table of threats in docs/security.md names tests that there are, and settings and commands that there are."""

from __future__ import annotations

import ast
import re
from dataclasses import fields

from orthanc_plugin.hosting.proxied import HEADERS
from orthanc_plugin.settings import REPOSITORY, Settings

TEXT = (REPOSITORY / "docs" / "security.md").read_text("utf-8")
THREATS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.partition("\n## Threats\n")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| threat")
]


def known_tests() -> set[str]:
    return {
        function.name
        for file in (REPOSITORY / "tests").rglob("test_*.py")
        for function in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(function, ast.FunctionDef)
    }


def test_each_threat_names_tests_that_there_are() -> None:
    there = known_tests()
    assert len(THREATS) > 20
    for threat, against, tests in THREATS:
        named = re.findall(r"`(test_\w+)`", tests)
        assert against, threat
        assert named, f"no test proves what is said of: {threat}"
        assert not set(named) - there, f"{threat}: there is no {sorted(set(named) - there)}"


def test_each_attack_stands_against_a_threat() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    for name in ("test_dicom_attacks.py", "test_bombs.py"):
        tree = ast.parse((REPOSITORY / "tests" / "attacks" / name).read_text("utf-8"))
        attacks = {f.name for f in tree.body if isinstance(f, ast.FunctionDef) and f.name.startswith("test_")}
        allowed = {name for name in attacks if "neighbour" in name or "own_programs" in name}
        assert not attacks - allowed - named, (
            f"{name}: docs/security.md does not know {sorted(attacks - allowed - named)}"
        )


def test_the_contract_with_a_proxy_is_the_one_that_is_documented() -> None:
    documented = {name.lower() for name in re.findall(r"X-Hilum-[A-Za-z-]+", TEXT)}
    assert documented - {"x-hilum-id", "x-hilum-signature"} == set(HEADERS)


def test_settings_of_the_examples_are_settings() -> None:
    known = {f.name for f in fields(Settings)}
    blocks = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    named = {name for block in blocks for name in re.findall(r"^(\w+) = ", block, re.MULTILINE)}
    assert len(named) > 5
    assert named <= known
