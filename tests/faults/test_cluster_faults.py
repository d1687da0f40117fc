"""Whatever of a cluster dies, each acknowledged study has one current result: a short run, seeded; and a fail-over."""

from __future__ import annotations

import pytest

from orthanc_plugin.commands.cluster import control
from tests.faults.cluster_run import ClusterRun, run, running_cluster
from tests.faults.run import Plan
from tests.faults.test_faults import promise_is_kept
from tests.postgres_server import missing_for_cluster

pytestmark = [pytest.mark.node, pytest.mark.skipif(bool(missing_for_cluster()), reason="a cluster needs more packages")]


@pytest.mark.timeout(400)
def test_members_of_a_cluster_die_and_nothing_is_lost_or_doubled() -> None:
    score = run(Plan(kills=5, seed=4, ledger="cluster", calm=0.5))
    assert score.all_kills >= 5
    promise_is_kept(score)


@pytest.mark.timeout(400)
def test_one_orthanc_stays_dead_and_everything_goes_on_by_the_other() -> None:
    with running_cluster() as settings:
        one = ClusterRun(Plan(kills=0, seed=5, ledger="cluster"), settings)
        one.begin()
        one.go_on(6)
        one.hold_dead("orthanc-1")
        one.go_on(12)
        one.settle_and_count(all_serve=False)
        assert [member.name for member in control.members(settings) if not member.serves] == ["orthanc-1"]
        (problem,) = [p for p in control.status(settings).problems if p["code"] == "member_away"]
        assert "orthanc-1" in problem["text"]
    assert len(one.score.found) > 8, "studies came before and after"
    promise_is_kept(one.score)
