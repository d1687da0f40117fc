"""Where the members of a cluster listen."""

from __future__ import annotations

from pathlib import Path

from orthanc_plugin.commands.cluster.plan import Plan, make_plan
from orthanc_plugin.settings import Settings


def ports(plan: Plan) -> set[int]:
    return {plan.database_port, plan.ray_port, *(port for pair in plan.orthancs for port in pair)}


def test_two_that_are_planned_at_once_want_no_port_twice(tmp_path: Path) -> None:
    """Neither listens yet, so that neither can see what the other has taken."""
    one, other = (
        make_plan(Settings(home=tmp_path / name, http_port=http, dicom_port=dicom), None, None)
        for name, http, dicom in (("one", 18_042, 14_242), ("other", 19_042, 15_242))
    )
    assert not ports(one) & ports(other)


def test_ports_stay_within_what_there_is(tmp_path: Path) -> None:
    for http in (1024, 65_535):
        plan = make_plan(Settings(home=tmp_path, http_port=http, dicom_port=4242), None, None)
        assert all(1024 <= port <= 65_535 for port in ports(plan))
        assert len(ports(plan)) == 6
