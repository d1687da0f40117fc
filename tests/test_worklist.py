"""Rows and page of the reading worklist: pure functions from the ledger's rows."""

from __future__ import annotations

from typing import Any

import pytest

from models.findings import OF_ABSENCE, Caution, Priority
from orthanc_plugin.ledger.pages import SORTS
from orthanc_plugin.ledger.tasks import TaskStatus
from orthanc_plugin.worklist import listing, page, rows

READY = {"state": "ready", "version": "0", "evaluated": ["pneumothorax"], "studies": {"done": 1},
         "ae_title": "HILUM", "dicom_port": 4242, "problems": []}  # fmt: skip


# as a chip: however narrow it becomes, probability and side are not cut off
LUNG_OPACITY = '<span class="of">Lung opacity</span><span class="how"> 87 %, left'


def shown(listed: list[rows.WorklistRow], status: dict[str, Any] = READY, now: float = 200.0, **more: Any) -> str:
    """The rows as a radiologist sees them."""
    given = {"visitor": ("ann", "radiologist"), "may_mark": True, **more}
    return page.render_rows(listing.Listing(tuple(listed), str(len(listed)), **given), status, now)


def whole(listed: list[rows.WorklistRow], status: dict[str, Any] = READY, **more: Any) -> str:
    return page.render_page(listing.Listing(tuple(listed), str(len(listed)), **more), status, 200.0)


def finding(
    key: str, state: str, probability: float | None, laterality: str | None = None, regions: int = 0
) -> dict[str, Any]:
    boxes = [[1.0, 2.0, 3.0, 4.0, key, 0.9]] * regions
    return {"key": key, "state": state, "probability": probability, "laterality": laterality, "regions": boxes}


def task(*images: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "study_instance_uid": "1.2.3", "status": "done", "priority": "urgent", "reason": None, "message": "why",
        "received_at": 100.0, "completed_at": 101.0, "patient_name": "Doe^Jane", "patient_id": "7",
        "patient_birth_date": "19700101", "patient_sex": "F", "accession_number": "A", "study_date": "20260102",
        "study_time": "030405", "study_description": "Chest", "attempts": 0, "trace": None,
        "referring_physician": "Sender^A", "patient_age": "055Y", "group": "urgent", "due_at": 3700.0, "read_at": None,
        "read_by": "", "changed": False, "reopened_at": None, "claimed_by": "", "claimed_until": 0.0, "assigned_to": "",
        "marks": 0, "lowered_from": "", "priority_reason": "why", "first_answer": 0,
        "result": {"images": list(images)}, **changes,
    }  # fmt: skip


def image(*findings: dict[str, Any]) -> dict[str, Any]:
    return {
        "sop_instance_uid": "1.2.3.1", "status": "done", "view": "PA", "reason": None, "models": {"m": "1"},
        "cautions": ["ap_view"], "findings": list(findings), "evidence": [{"source": "ViewPosition", "says": "PA"}],
    }  # fmt: skip


def pictured(report: str, priority: str, *findings: dict[str, Any]) -> dict[str, Any]:
    return {**image(*findings), "measurement_report": report, "priority": priority, "thumbnail": True}


def refused(reason: str) -> dict[str, Any]:
    evidence = [{"source": "ViewPosition", "says": "LL"}, {"source": "pixels", "says": "lateral, score 0.01"}]
    return {"sop_instance_uid": "1.2.3.2", "status": "not_processed", "reason": reason, "message": "not read",
            "evidence": evidence}  # fmt: skip


def test_a_study_shows_the_most_telling_of_its_images_and_never_a_mean() -> None:
    first = image(finding("effusion", "absent", 0.1), finding("edema", "undetermined", 0.4))
    second = image(finding("effusion", "present", 0.8, "left"), finding("edema", "not_evaluated", None))
    row = rows.worklist_row(task(first, second, refused("view")))
    found = {f.key: (f.state, f.probability) for f in row.findings}
    assert found == {"effusion": ("present", 0.8), "edema": ("undetermined", 0.4)}
    assert [(line.reason, line.message) for line in row.refused] == [("view", "not read")]


def test_a_study_without_an_answer_has_no_findings() -> None:
    assert rows.worklist_row(task(status="queued", result={})).findings == ()


def test_all_words_of_a_row_count_what_the_row_lists() -> None:
    open_ = [finding(key, "undetermined", 0.4) for key in ("edema", "effusion", "nodule")]
    words = "Nothing called present, 1 undetermined"  # what was said of one image
    row = rows.to_json(rows.worklist_row(task(image(*open_), message=words, priority_reason=words)))
    assert {row["message"], row["priority_reason"]} == {"Nothing called present, 3 undetermined"}


def test_the_interface_keeps_its_names() -> None:
    row = rows.to_json(rows.worklist_row(task(image(finding("effusion", "present", 0.8)))))
    assert {"study_instance_uid", "status", "priority", "findings", "reason", "received_at", "completed_at",
            "ohif_url", "group", "due_at", "read_at", "read_by", "changed", "reopened_at", "claimed_by",
            "claimed_until", "assigned_to", "patient_age", "patient_sex", "patient_birth_date",
            "referring_physician"} <= set(row)  # fmt: skip
    assert row["ohif_url"] == "/ohif/viewer?StudyInstanceUIDs=1.2.3"
    assert row["findings"][0] == {
        "key": "effusion",
        "state": "present",
        "probability": 0.8,
        "laterality": None,
        "regions": 0,
    }


def test_the_page_says_what_it_is_and_shows_why() -> None:
    listed = [rows.worklist_row(task(image(finding("lung_opacity", "present", 0.87, "left"))))]
    html = whole(listed)
    for text in ("not a medical device", "AI result, not verified", "Doe, Jane", LUNG_OPACITY,
                 "2026-01-02 03:04",
"AP view", "Urgent", "why"):  # fmt: skip
        assert text in html, text
    assert page.render_rows(listing.Listing(tuple(listed), "1"), READY, 200.0) in html


def test_hostile_text_stays_text() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    listed = [rows.worklist_row(task(patient_name=hostile, patient_id=hostile, study_description=hostile))]
    assert "<img src=x" not in whole(listed)


def test_without_a_worker_the_page_says_so() -> None:
    assert "No worker is ready" in whole([], {**READY, "state": "starting"})


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Doe^Jane", "Doe, Jane"),
        ("Doe", "Doe"),
        ("=山田^太郎", "山田, 太郎"),
        ("", ""),
        ("Doe^Jane^M^Dr", "Doe, Jane M"),
    ],
)
def test_names_are_shown_as_people_write_them(name: str, shown: str) -> None:
    assert page.person_name(name) == shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "< 1 min"), (59, "< 1 min"), (60, "1 min"), (3600, "1 h"), (11_100, "3 h 05"), (100_000, "1 d 3 h")],
)
def test_durations_are_short(seconds: float, words: str) -> None:
    assert listing.minutes(seconds) == words


def test_images_are_found_by_what_decided_on_them() -> None:
    listed = [task(image(finding("effusion", "absent", 0.1)), refused("view"))]

    def found(**wanted: str) -> list[str]:
        return [entry["sop_instance_uid"] for entry in rows.matching_images(listed, wanted)]

    assert found() == ["1.2.3.1", "1.2.3.2"]
    assert found(reason="view") == found(evidence="pixels") == found(status="not_processed") == ["1.2.3.2"]
    assert found(view="PA") == found(caution="ap_view") == ["1.2.3.1"]
    assert found(evidence="ViewPosition", study_instance_uid="1.2.3") == ["1.2.3.1", "1.2.3.2"]
    with pytest.raises(ValueError, match="known are"):
        found(patient_name="Doe")


def test_answers_of_the_first_version_are_still_shown() -> None:
    old = image(finding("effusion", "present", 0.8))
    old["evidence"] = "ViewPosition PA"
    bare = {"sop_instance_uid": "1", "status": "not_processed", "reason": "view", "message": "not read"}
    row = rows.worklist_row(task(old, bare))
    assert [line.evidence for line in row.images] == [(), ()]
    assert rows.matching_images([task(old, bare)], {"reason": "view"})
    assert "2 images, 1 not read" in shown([row])


def test_the_page_lists_each_image_with_its_evidence() -> None:
    listed = [rows.worklist_row(task(image(finding("effusion", "absent", 0.1)), refused("view")))]
    html = shown(listed)
    assert "2 images, 1 not read" in html
    assert "<code>view</code> not read" in html
    assert "pixels <b>lateral, score 0.01</b>" in html


def test_every_caution_has_words_for_people() -> None:
    assert {caution.value for caution in Caution} == set(page._CAUTIONS)


def test_the_picture_is_of_the_image_that_sets_the_priority_and_its_words_say_what_it_shows() -> None:
    calm = pictured("2.25.1", "routine", finding("effusion", "absent", 0.1))
    sure = pictured("2.25.2", "urgent", finding("lung_opacity", "present", 0.9, "left", regions=2))
    less = pictured("2.25.3", "urgent", finding("lung_opacity", "present", 0.7, "right", regions=1))
    row = rows.worklist_row(task(calm, refused("view"), less, sure))
    assert row.thumbnail == rows.Thumbnail(
        "/hilum/thumbnails/2.25.2?study_instance_uid=1.2.3", "AI heat map: lung opacity, left"
    )
    urls = [entry["thumbnail"] for entry in rows.to_json(row)["images"]]
    assert [url and url.partition("?")[0] for url in urls] == [
        "/hilum/thumbnails/2.25.1", None, "/hilum/thumbnails/2.25.3", "/hilum/thumbnails/2.25.2",
    ]  # fmt: skip
    listed = rows.matching_images([task(calm, refused("view"))], {})
    assert [entry["thumbnail"] for entry in listed] == [urls[0], None]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], "Radiograph; no finding was evaluated"),
        ([finding("effusion", "not_evaluated", None)], "Radiograph; no finding was evaluated"),
        ([finding("effusion", "undetermined", 0.4)], "Radiograph; nothing called present"),
        ([finding("effusion", "present", 0.8)], "Radiograph; nothing drawn for what was called present"),
        (
            [finding("effusion", "present", 0.8), finding("lung_opacity", "present", 0.7, regions=1),
             finding("mass", "present", 0.7, "bilateral", regions=2)],
            "AI heat map: lung opacity; mass, bilateral",
        ),
    ],
    ids=["none", "not evaluated", "undetermined", "elsewhere", "two maps"],
)  # fmt: skip
def test_a_picture_is_described_without_the_patient(found: list[dict[str, Any]], words: str) -> None:
    row = rows.worklist_row(task(pictured("2.25.1", "routine", *found)))
    assert row.thumbnail is not None
    assert row.thumbnail.words == words
    assert "Doe" not in row.thumbnail.url + row.thumbnail.words


def test_outlines_and_boxes_without_a_heat_map_are_told_as_such() -> None:
    found = [finding("pneumothorax", "present", 0.9, "left"), finding("nodule", "present", 0.8, regions=1),
             finding("lung_opacity", "present", 0.7, "right", regions=2), finding("edema", "present", 0.6),
             finding("mass", "absent", 0.1)]  # fmt: skip
    entry = pictured("2.25.1", "critical", *found) | {"maps": ["lung_opacity"], "segments": ["heart", "pneumothorax"]}
    row = rows.worklist_row(task(entry))
    assert row.thumbnail is not None
    assert row.thumbnail.words == "AI heat map: lung opacity, right. AI outline: pneumothorax, left; nodule"


@pytest.mark.parametrize(
    ("state", "words"),
    [("absent", "Nothing called present"), ("undetermined", "Nothing called present"),
     ("not_evaluated", "No finding was evaluated")],
)  # fmt: skip
def test_a_row_does_not_say_that_nothing_was_found_where_nothing_was_evaluated(state: str, words: str) -> None:
    probability = None if state == "not_evaluated" else 0.2
    row = rows.worklist_row(task(image(finding("effusion", state, probability))))
    html = shown([row])
    assert f'<span class="chip none">{words}</span>' in html


def test_a_class_without_findings_is_no_finding_and_what_has_no_probability_is_shown_without_one() -> None:
    calm = rows.worklist_row(task(pictured("2.25.1", "routine", finding("covid_negative", "present", None))))
    html = shown([calm])
    assert '<span class="chip none">Nothing called present</span>' in html
    assert "Negative for pneumonia" not in html
    assert calm.thumbnail is not None
    assert calm.thumbnail.words == "Radiograph; nothing called present"
    assert rows.to_json(calm)["findings"][0]["state"] == "present"
    seen = finding("lung_opacity", "present", 0.8), finding("covid_typical", "present", None)
    html = shown([rows.worklist_row(task(image(*seen, finding("edema", "absent", None))))])
    assert 'title="Typical appearance for COVID-19 pneumonia"><span class="of">COVID-19: typical</span>' in html
    assert 'COVID-19: typical</span><span class="how"></span></a>' in html
    assert '<span class="of">Lung opacity</span><span class="how"> 80 %</span></a>' in html
    assert "Absent:</b> Edema</p>" in html
    html = shown([rows.worklist_row(task(image(finding("covid_typical", "absent", None))))])
    assert "Absent:</b> COVID-19: typical</p>" in html
    assert rows._OF_ABSENCE == OF_ABSENCE


def test_the_page_shows_the_picture_and_a_row_without_one_keeps_its_columns() -> None:
    answered = task(pictured("2.25.1", "urgent", finding("lung_opacity", "present", 0.9, regions=1)))
    without = task(image(finding("effusion", "absent", 0.1)), study_instance_uid="1.2.4")
    queued = task(status="queued", result={}, study_instance_uid="1.2.5")
    html = shown([rows.worklist_row(t) for t in (answered, without, queued)])
    assert html.count("<img ") == 1
    assert html.count('<td class="c-picture picture">') == 3
    picture = html[html.index('<td class="c-picture picture">') :].partition("</td>")[0]
    for part in ('src="/hilum/thumbnails/2.25.1?study_instance_uid=1.2.3"', 'width="56" height="56"', 'loading="lazy"',
                 'alt="AI heat map: lung opacity"', 'href="/ohif/viewer?StudyInstanceUIDs=1.2.3"'):  # fmt: skip
        assert part in picture
    assert rows.worklist_row(without).thumbnail is None
    columns = html[html.index("<thead>") : html.index("</thead>")].count("<th ")
    cells = [row.partition("</tr>")[0] for row in html.split("<tbody")[1:]]
    assert [row.count("<td") + row.count("<th") for row in cells] == [columns] * 3


def test_the_head_of_a_column_sorts_by_it_then_the_other_way_then_in_the_reading_order() -> None:
    row = rows.worklist_row(task(image(finding("effusion", "present", 0.8))))

    def head_of(words: str, sort: str) -> str:
        html = page.render_rows(listing.Listing((row,), "1", sort=sort), READY, 200.0)
        (head,) = (part for part in html.partition("</thead>")[0].split("<th ") if f">{words}" in part)
        return head

    for words, column in (("Findings", "findings"), ("Waiting", "received"), ("Study", "study_date")):
        assert f'value="-{column}"' in head_of(words, ""), "the most, and the latest, first"
        assert f'value="{column}"' in head_of(words, f"-{column}")
        assert 'value=""' in head_of(words, column)
    assert 'value="patient"' in head_of("Patient", "-findings")
    assert 'aria-sort="descending"' in head_of("Findings", "-findings")
    assert "Findings \u2193</button> <span" in head_of("Findings", "-findings")
    assert "AI result, not verified" in head_of("Findings", "")
    assert "aria-sort" not in head_of("Findings", "-received")


def test_every_order_has_words() -> None:
    assert set(listing.SORT_WORDS) == set(SORTS)


def test_every_priority_can_lead() -> None:
    assert tuple(priority.value for priority in Priority) == rows._PRIORITIES


def test_a_quarantined_study_says_why_and_where_and_can_be_tried_again_without_a_script() -> None:
    row = rows.worklist_row(
        task(status="quarantined", result={}, reason="reader_died", message="the process died on <it>", attempts=5,
             trace="orthanc_plugin/reading/study.py:12 process_study\nmodels/inference.py:7 run")
    )  # fmt: skip
    html = shown([row])
    for text in ("Failed", "<code>reader_died</code> the process died on &lt;it&gt;", "5 failed attempts",
                 "orthanc_plugin/reading/study.py:12 process_study\nmodels/inference.py:7 run",
                 '<form class="retry" method="post" action="/hilum/api/retry">',
                 'name="study_instance_uid" value="1.2.3"', "<button>Try again</button>"):  # fmt: skip
        assert text in html, text
    assert rows.to_json(row)["trace"] == [
        "orthanc_plugin/reading/study.py:12 process_study",
        "models/inference.py:7 run",
    ]


@pytest.mark.parametrize("status", ["queued", "running", "answered", "done", "not_processed"])
def test_only_a_quarantined_study_has_a_button(status: str) -> None:
    assert "/hilum/api/retry" not in shown([rows.worklist_row(task(status=status))])


def test_an_answered_study_shows_its_findings_and_that_it_waits() -> None:
    row = rows.worklist_row(task(image(finding("lung_opacity", "present", 0.87)), status="answered"))
    html = shown([row])
    assert "Answered, waits for further images" in html
    assert LUNG_OPACITY.removesuffix(", left") in html


def test_every_state_of_a_task_has_words() -> None:
    assert set(listing.STATUS_WORDS) == {status.value for status in TaskStatus} - {"removed"}


def test_each_problem_is_a_banner_with_what_to_do() -> None:
    full = {"code": "storage_full", "text": "Only 7 MB <free>.", "what_to_do": "Free disk space.", "stops": True}
    lost = {"code": "quarantined", "text": "2 studies could not be read.", "what_to_do": "See.", "stops": False}
    html = shown([], {**READY, "state": "impaired", "problems": [full, lost]})
    assert (
        '<div class="banner stops" id="problem-storage_full"><p><b>Only 7 MB &lt;free&gt;.</b> Free disk space.</p>'
        in html
    )
    assert '<div class="banner" id="problem-quarantined">' in html
    assert 'name="all" value="yes"' in html
    assert page.render_problems({**READY, "problems": [full, lost]}) in html


def test_without_the_ledger_the_page_does_not_say_that_there_are_no_studies() -> None:
    html = page.render_page(listing.Listing((), ""), {**READY, "state": "impaired", "studies": {}}, 200.0, ledger=False)
    assert "cannot be shown" in html
    assert "No study has arrived" not in html


def test_a_search_that_ended_early_says_so_and_goes_on() -> None:
    some = shown([rows.worklist_row(task())], complete=False, next="abc", asked={"text": "m"})
    none = shown([], complete=False, next="abc", asked={"text": "m"})
    for html in (some, none):
        assert "these are the first that fit" in html
        assert 'value="abc" id="next"' in html
    back = shown([], complete=False, next="abc", previous="xyz", before="uvw", asked={"text": "m"})
    assert "these are the last that fit before" in back
    assert 'value="xyz" id="previous"' in back
    assert "No study so far fits" in none
    assert "No study fits" not in none
    assert 'id="ended"' not in shown([], asked={"text": "m"})


def test_the_number_of_critical_studies_is_that_of_all_and_not_of_those_that_are_named() -> None:
    html = shown([], critical=("2.25.2", "2.25.1"), critical_number=140)
    assert "140 critical unread" in html
    assert 'data-critical="2.25.2 2.25.1"' in html


def test_a_study_is_flagged_while_its_results_are_stored() -> None:
    said = {"priority": "critical", "priority_reason": "Pneumothorax 91 %, right", "message": None}
    flagged = rows.worklist_row(task(status="running", first_answer=1, **said))
    assert "Pneumothorax 91 %, right (first answer)" in shown([flagged])
    assert rows.to_json(flagged)["priority_reason"] == "Pneumothorax 91 %, right (first answer)"
    unknown = task(status="running", priority="none", priority_reason="", message=None)
    assert "Not answered yet" in shown([rows.worklist_row(unknown)])


@pytest.mark.parametrize("status", ["queued", "running", "answered", "done", "quarantined", "not_processed"])
def test_a_priority_is_never_shown_without_its_reason(status: str) -> None:
    kept = {"priority_reason": "Effusion 80 %", "lowered_from": "critical, Pneumothorax 91 %"}
    read = {**image(finding("pneumothorax", "present", 0.9)), "priority": "critical", "priority_reason": "Pneumothorax"}
    of_before = {"priority_reason": ""}
    for told, why in (
        (task(**kept), "Effusion 80 %; earlier answer: critical, Pneumothorax 91 %"),
        (task(read, **of_before), "Pneumothorax"),
        (task(**of_before), "Why is not known any more"),
    ):
        row = rows.worklist_row({**told, "status": status, "priority": "critical", "message": "away", "reason": "x"})
        assert f">{why}</span>" in shown([row])
        assert "(first answer)" not in shown([row])


def test_the_list_says_when_no_active_model_looks_for_pneumothorax() -> None:
    for found, said in ((["effusion"], True), (["effusion", "pneumothorax"], False), (None, False)):
        assert ("No active model looks for pneumothorax" in shown([], {**READY, "evaluated": found})) is said
