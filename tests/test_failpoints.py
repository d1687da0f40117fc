"""Places to fail at: nothing happens without the environment variable, and with it a process ends where it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from orthanc_plugin.failpoints import DELIVERY_POINTS, POINTS, FailpointUnknown, parse
from orthanc_plugin.settings import REPOSITORY

PROGRAM = "import sys; from orthanc_plugin.failpoints import reach; reach(sys.argv[1]); print('went on')"


def go_through(point: str, named: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment.pop("HILUM_FAILPOINTS", None)
    if named is not None:
        environment["HILUM_FAILPOINTS"] = named
    command = [sys.executable, "-c", PROGRAM, point]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_nothing_dies_without_the_environment_variable() -> None:
    assert go_through("claimed", None).stdout == "went on\n"
    assert go_through("claimed", "").stdout == "went on\n"


def test_a_named_place_ends_the_process_at_once_and_the_log_says_where() -> None:
    ended = go_through("claimed", "claimed:1")
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "")
    assert ended.stderr.splitlines() == ["failpoint claimed"]


def test_other_places_are_passed() -> None:
    assert go_through("answered", "claimed:1").stdout == "went on\n"
    assert go_through("claimed", "claimed:0").stdout == "went on\n"


@pytest.mark.parametrize("text", ["nowhere:1", "claimed", "claimed:often", "claimed:1,nowhere:0.5", ":1"])
def test_what_names_no_place_or_no_probability_is_refused(text: str) -> None:
    with pytest.raises(FailpointUnknown):
        parse(text)


def test_several_places_may_be_named() -> None:
    assert parse("claimed:0.25, answered:1") == {"claimed": 0.25, "answered": 1.0}
    assert parse("") == {}


def test_each_place_is_reached_in_exactly_one_line_of_the_node() -> None:
    source = "\n".join(path.read_text("utf-8") for path in sorted((REPOSITORY / "orthanc_plugin").rglob("*.py")))
    reached = re.findall(r"\breach\(\"(\w+)\"\)", source)
    assert sorted(reached) == sorted(POINTS + DELIVERY_POINTS)
