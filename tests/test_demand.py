"""How many actors are wanted: as many as studies need, between what the site allows, and fewer only after a while."""

from __future__ import annotations

import pytest

from orthanc_plugin.working.demand import PATIENCE_SECONDS, Demand, Limits


@pytest.mark.parametrize(("studies", "actors"), [(0, 1), (1, 1), (2, 1), (3, 2), (7, 4), (8, 4), (1000, 4)])
def test_as_many_as_the_studies_need_between_least_and_most(studies: int, actors: int) -> None:
    assert Demand(Limits(1, 4, 2)).wanted(studies, now=0.0) == actors


def test_more_at_once_and_fewer_only_after_a_while() -> None:
    demand, end = Demand(Limits(1, 4, 1)), PATIENCE_SECONDS
    assert demand.wanted(4, now=0.0) == 4
    assert demand.wanted(0, now=end - 1) == 4
    assert demand.wanted(2, now=end - 0.5) == 4
    assert demand.wanted(0, now=end) == 2, "what was needed a moment ago is kept"
    assert demand.wanted(0, now=2 * end) == 1


def test_a_steady_demand_keeps_what_it_needs_and_remembers_little() -> None:
    demand = Demand(Limits(1, 8, 1))
    for second in range(10_000):
        assert demand.wanted(3 + second % 2, now=float(second)) in (3, 4)
    assert demand.wanted(3, now=10_000.0) == 4
    assert len(demand._needed) <= 8


def test_seats_are_what_all_actors_read_at_the_same_time() -> None:
    assert Limits(1, 4, 3).seats == 12
