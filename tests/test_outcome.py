"""When a study counts as complete."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orthanc_plugin.ledger.tasks import InferenceTask, TaskStatus, Urgency
from orthanc_plugin.reading.outcome import complete_at
from orthanc_plugin.settings import Settings

NOW = float(int(time.time()))


def task(*, latest: float, concluded: tuple[str, ...] = ()) -> InferenceTask:
    return InferenceTask(
        "1.2", fence=1, generation=1, attempts=0, failures=0, first_failed_at=None, conclude=False,
        result={"concluded": list(concluded)}, received_at=latest, last_instance_at=latest, urgency=Urgency.ROUTINE,
    )  # fmt: skip


def read(uid: str, came: float) -> dict[str, Any]:
    received = datetime.fromtimestamp(came, UTC).strftime("%Y%m%dT%H%M%S")
    return {"sop_instance_uid": uid, "status": TaskStatus.DONE.value, "reason": None, "received": received}


LATERAL = {"sop_instance_uid": "9", "status": TaskStatus.NOT_PROCESSED.value, "reason": "view"}


def settings(**given: Any) -> Settings:
    return Settings(home=Path("unused"), quiet_seconds=5.0, study_deadline_seconds=600.0, **given)


def test_a_study_is_complete_when_no_image_has_come_for_a_while() -> None:
    assert complete_at(task(latest=NOW - 2), [read("1", NOW - 60), read("2", NOW - 2)], settings()) == NOW + 3


def test_images_that_keep_coming_do_not_put_it_off_for_ever() -> None:
    assert complete_at(task(latest=NOW), [read("1", NOW - 599), read("2", NOW)], settings()) == NOW + 1


def test_the_deadline_starts_anew_after_a_report() -> None:
    entries = [read("1", NOW - 86400), read("2", NOW)]
    assert complete_at(task(latest=NOW, concluded=("1",)), entries, settings()) == NOW + 5


@pytest.mark.parametrize(
    ("views", "complete"), [(("frontal",), True), (("frontal", "lateral"), True), (("lateral", "other"), False)]
)
def test_a_study_with_all_expected_views_is_complete_at_once(views: tuple[str, ...], complete: bool) -> None:
    at = complete_at(task(latest=NOW), [read("1", NOW), LATERAL], settings(expected_views=views))
    assert (at <= NOW) is complete


def test_a_clock_that_was_put_back_since_the_image_came_does_not_put_it_off() -> None:
    day = 86400.0
    assert complete_at(task(latest=NOW + day), [read("1", NOW + day)], settings()) <= time.time() + 5
