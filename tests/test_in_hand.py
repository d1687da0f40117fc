"""A claim goes on while its holder looks at the study, and no longer."""

from __future__ import annotations

import pytest

from orthanc_plugin.hosting.in_hand import InHand
from orthanc_plugin.hosting.messages import Request
from orthanc_plugin.hosting.trail import studies_of
from orthanc_plugin.ledger import marks, tasks
from orthanc_plugin.ledger.database import Ledger
from orthanc_plugin.ledger.tasks import Arrival

CLAIM = 900.0


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    """Both studies are in the hands of ada until second 910."""
    with ledger.write() as db:
        for uid in ("1.2.3", "1.2.4"):
            tasks.enqueue(db, Arrival(uid), now=1.0)
            marks.claim(db, uid, "ada", now=10.0, seconds=CLAIM)
    return ledger


def until(ledger: Ledger) -> list[float]:
    with ledger.read() as db:
        return [tasks.of_study(db, uid)[0]["claimed_until"] for uid in ("1.2.3", "1.2.4")]


def look(ledger: Ledger, *looks: tuple[str, float]) -> None:
    in_hand = InHand(ledger, seconds=CLAIM)
    in_hand.start()
    for user, now in looks:
        in_hand.looked_at(user, ["1.2.3"], now)
    in_hand.stop()


def test_a_look_at_a_study_prolongs_the_claim_of_its_holder_on_it_alone(filled: Ledger) -> None:
    look(filled, ("ben", 600.0), ("", 600.0), ("ada", 500.0))
    assert until(filled) == [1400.0, 910.0]


def test_one_look_in_a_minute_is_enough(filled: Ledger) -> None:
    look(filled, ("ada", 500.0), ("ada", 559.0), ("ada", 561.0), ("ada", 562.0))
    assert until(filled) == [1461.0, 910.0]


def test_a_claim_that_has_run_out_does_not_come_back_by_a_look(filled: Ledger) -> None:
    look(filled, ("ada", 911.0))
    assert until(filled) == [910.0, 910.0]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/dicom-web/studies/1.2.3/series/1/instances/2/frames/1", {}),
        ("/dicom-web/studies/1.2.3", {}),
        ("/hilum/studies/1.2.3", {}),
        ("/hilum/studies/1.2.3/images/2.25.7/picture", {}),
        ("/dicom-web/series", {"StudyInstanceUID": "1.2.3"}),
        ("/wado", {"studyUID": "1.2.3"}),
    ],
)
def test_what_ohif_and_the_study_page_ask_for_names_the_study(path: str, query: dict[str, str]) -> None:
    assert studies_of(Request(path, query=query)) == ["1.2.3"]
