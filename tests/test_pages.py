"""Pages of the worklist: every study that fits, once, in the documented order, however the page is found."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from models.findings import OF_ABSENCE
from orthanc_plugin.ledger import derived, tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.derived import asked_words, derive_missing, words_of
from orthanc_plugin.ledger.dump import dump, load
from orthanc_plugin.ledger.filters import (
    NAMED,
    PRIORITIES,
    Filter,
    FilterInvalid,
    NamedFilter,
    delete_filter,
    save_filter,
    saved_filters,
)
from orthanc_plugin.ledger.pages import SORTS, Page, page
from orthanc_plugin.ledger.question import Count, Effort
from orthanc_plugin.ledger.reading_order import Group, WaitingLimits, place_of
from orthanc_plugin.ledger.tasks import Arrival, Outcome, TaskStatus
from orthanc_plugin.ledger.views import Alarm, after, unread_critical

NOW = 100_000.0
LIMITS = WaitingLimits()
EFFORTS = {
    "walked": Effort(gathered=0, gathered_of_several=0, walked=10**6, walked_by_row=10**6),
    "gathered": Effort(gathered=10**6, gathered_of_several=10**6),
    "tried, then gathered": Effort(gathered=0, gathered_of_several=10**6, tried=3),
    "ended": Effort(gathered=0, gathered_of_several=0, walked=3, walked_by_row=2),
}
NAMES = (
    "Müller^Jörg",
    "MULLER^Ann",
    "O'Neil^Zoë=山田^太郎=やまだ^たろう",
    "Петров^Пётр",
    "muller-smith",
    "",
    "100%_'\"\0\\",
)
PEOPLE = ("", "ada", "ben")


@dataclass(frozen=True)
class Study:
    """What a row of the ledger is made from, and what the test expects of it."""

    uid: str
    rank: int = 2
    received_at: float = NOW - 60
    read_at: float | None = None
    status: str = "done"
    name: str = ""
    findings: dict[str, str] = field(default_factory=dict)
    date: str = "20260101"
    claimed_by: str = ""
    claimed_until: float = 0.0
    assigned_to: str = ""
    reason: str | None = None

    def number(self, state: str) -> int:
        """Of findings; what says that nothing was found is none."""
        return sum(said == state and (key != "no_finding" or said != "present") for key, said in self.findings.items())

    @property
    def words(self) -> str:
        return words_of(self.name, f"ID-{self.uid}", "")


def fill(ledger: Ledger, studies: list[Study]) -> None:
    with ledger.write() as db:
        for table in ("tasks", "search_terms", "study_findings", "reading_marks", "saved_filters"):
            db.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608
        for study in studies:
            found = [
                {"key": key, "state": state, "probability": 0.5, "laterality": None, "regions": []}
                for key, state in study.findings.items()
            ]
            image = {"sop_instance_uid": f"{study.uid}.1", "status": "done", "findings": found}
            outcome = Outcome(
                TaskStatus.DONE, PRIORITIES[study.rank], study.rank, {"version": 1, "images": [image]},
                reason=study.reason,
            )  # fmt: skip
            arrival = Arrival(study.uid, study.name, f"ID-{study.uid}", study_date=study.date, study_time="1200")
            assert tasks.adopt(db, arrival, outcome, now=NOW, received_at=study.received_at)
            statement = """
                UPDATE tasks SET status = :status, read_at = :read_at, claimed_by = :claimed_by,
                                 claimed_until = :claimed_until, assigned_to = :assigned_to
                WHERE study_instance_uid = :uid
            """
            changed = ("uid", "status", "read_at", "claimed_by", "claimed_until", "assigned_to")
            db.execute(text(statement), {name: getattr(study, name) for name in changed})


def fits(study: Study, wanted: Filter, user: str) -> bool:
    """The meaning of a filter, said once more."""
    held_by = study.claimed_by if study.claimed_until > NOW else ""
    words = asked_words(wanted.text)
    return (
        study.status != "removed"
        and (not wanted.text.strip() or bool(words))
        and all(any(term.startswith(word) for term in study.words.split()) for word in words)
        and study.status in (wanted.status or (study.status,))
        and PRIORITIES[study.rank] in (wanted.priority or PRIORITIES)
        and all(study.findings.get(key) == "present" for key in wanted.present)
        and all(study.findings.get(key) == "undetermined" for key in wanted.undetermined)
        and wanted.read in (None, study.read_at is not None)
        and (not wanted.mine or user in (study.assigned_to, held_by))
        and wanted.claimed_by in ("", held_by)
        and wanted.assigned_to in ("", study.assigned_to)
        and (not (wanted.study_from or wanted.study_until) or bool(study.date))
        and (wanted.study_from or "0") <= (study.date or "0") <= (wanted.study_until or "9")
        and wanted.reason in ("", study.reason)
    )


KEYS: dict[str, Callable[[Study], Any]] = {
    "": lambda s: place_of(s.rank, s.received_at, s.read_at, now=NOW, limits=LIMITS),
    "received": lambda s: s.received_at,
    "patient": lambda s: s.words.encode(),
    "study_date": lambda s: s.date,
    "status": lambda s: (s.status, s.received_at),
    "priority": lambda s: (-s.rank, s.received_at),
    "findings": lambda s: (s.number("present"), s.number("undetermined"), s.received_at),
}


def expected(studies: list[Study], wanted: Filter, user: str, sort: str) -> list[str]:
    chosen = [study for study in studies if fits(study, wanted, user)]
    ordered = sorted(chosen, key=lambda s: (KEYS[sort.removeprefix("-")](s), s.uid), reverse=sort.startswith("-"))
    return [study.uid for study in ordered]


def uids(found: Page) -> list[str]:
    return [row["study_instance_uid"] for row in found.rows]


SECONDS = st.integers(0, 12).map(lambda n: NOW - 3_000.0 * n - n % 3 / 7)
STUDIES = st.lists(
    st.builds(
        Study,
        uid=st.integers(100, 999).map(lambda n: f"1.2.{n}"),
        rank=st.integers(0, 3),
        received_at=SECONDS,
        read_at=st.none() | st.none() | SECONDS,
        status=st.sampled_from(["done", "done", "queued", "running", "answered", "quarantined", "removed"]),
        name=st.sampled_from(NAMES),
        findings=st.dictionaries(
            st.sampled_from(["effusion", "edema", "mass", "no_finding"]),
            st.sampled_from(["present", "undetermined", "absent"]),
        ),
        date=st.sampled_from(["", "20251231", "20260101", "20260102"]),
        claimed_by=st.sampled_from(PEOPLE),
        claimed_until=st.sampled_from([NOW - 1, NOW + 60]),
        assigned_to=st.sampled_from(PEOPLE),
        reason=st.none() | st.sampled_from(["view", "age"]),
    ),
    max_size=30,
    unique_by=lambda study: study.uid,
)
FILTERS = st.builds(
    Filter,
    text=st.sampled_from(["", "", "", "mull", "MÜLLER jorg", "о", "Петр", "山", "oneil", "id 1.2", "%", "_", "'", "\0",
                          "100", "mull* smi?"]),
    status=st.lists(st.sampled_from(["done", "queued", "quarantined"]), max_size=2, unique=True).map(tuple),
    priority=st.lists(st.sampled_from(PRIORITIES), max_size=2, unique=True).map(tuple),
    present=st.lists(st.sampled_from(["effusion", "edema"]), max_size=2, unique=True).map(tuple),
    undetermined=st.sampled_from([(), (), ("mass",)]),
    read=st.sampled_from([None, None, True, False]),
    mine=st.sampled_from([False, False, False, True]),
    claimed_by=st.sampled_from(["", "", "", "ben"]),
    assigned_to=st.sampled_from(["", "", "", "ben"]),
    study_from=st.sampled_from(["", "", "20260101"]),
    study_until=st.sampled_from(["", "", "20260101"]),
    reason=st.sampled_from(["", "", "", "view"]),
)  # fmt: skip
ORDERS = st.sampled_from(["", "", "", *SORTS, *(f"-{name}" for name in SORTS)])


def walk_there_and_back(db: Connection, wanted: Filter, whole: list[str], *, may_end: bool, **asked: Any) -> None:
    """Each page has what is its turn, forward, by its number and back."""
    size = asked["limit"]
    found, after, parts, back_from = [], "", [], None
    while True:
        part = page(db, wanted, after=after, **asked)
        back_from = part if part.rows or not back_from or not part.complete else back_from
        found += uids(part)
        parts.append(uids(part))
        assert part.complete or (part.next and may_end)
        assert part.searchable
        if part.count.exact:
            assert part.count.number == len(whole), asked
        if not part.next:
            break
        after = part.next
    assert found == whole, asked
    third = page(db, wanted, offset=2 * size, **asked)
    assert third.complete or may_end
    expected_there = whole[2 * size : 3 * size]
    assert uids(third) == (expected_there if third.complete else expected_there[: len(third.rows)]), asked
    part = back_from  # a search that ended early may go on to nothing
    back, begins = [uids(part)], len(whole) - len(part.rows)
    while part.previous:
        part = page(db, wanted, before=part.previous, **asked)
        back.append(uids(part))
        assert part.complete or may_end
        if part.previous:
            ends, begins = begins, begins - len(part.rows)
        else:  # the first page, which has what is left and may have some of the one before as well
            assert begins <= size
            ends, begins = len(part.rows), 0
        assert back[-1] == whole[begins:ends], asked
        assert len(part.rows) in (size, len(whole)) or not part.complete
        assert part.next or not part.previous
        if part.count.exact:
            assert part.count.number == len(whole), asked
        if part.next:  # and forward again from there
            ahead = page(db, wanted, after=part.next, **asked)
            assert uids(ahead) == whole[ends : ends + (size if ahead.complete else len(ahead.rows))]
            assert not ahead.count.exact or ahead.count.number == len(whole), asked
    assert begins == 0
    assert may_end or back == parts[::-1], asked


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(studies=STUDIES, filters=st.lists(FILTERS, min_size=1, max_size=6), sort=ORDERS, size=st.integers(1, 9))
def test_all_pages_together_are_what_fits_once_and_in_order(
    ledger: Ledger, studies: list[Study], filters: list[Filter], sort: str, size: int
) -> None:
    fill(ledger, studies)
    with ledger.read() as db:
        # one in three filters asks for little, so that it finds something
        for number, drawn in enumerate(filters):
            wanted = drawn if number % 3 else Filter(read=drawn.read, priority=drawn.priority, text=drawn.text)
            whole = expected(studies, wanted, "ada", sort)
            for way, effort in EFFORTS.items():
                asked = {"now": NOW, "limits": LIMITS, "sort": sort, "user": "ada", "limit": size, "effort": effort}
                walk_there_and_back(db, wanted, whole, may_end=way == "ended", **asked)


@pytest.mark.parametrize("sort", ["", "-received", "patient", "-findings"])
def test_a_search_that_ends_early_leads_to_all_that_fits_and_back(ledger: Ledger, sort: str) -> None:
    drawn = random.Random(7)  # noqa: S311
    studies = [
        Study(
            f"1.2.{n}", drawn.randrange(4), NOW - 300.0 * drawn.randrange(60),
            NOW - 60.0 * drawn.randrange(9) if n % 3 == 0 else None,
            name=drawn.choice(NAMES), findings={"edema": drawn.choice(["present", "absent"])},
        )
        for n in range(100, 180)
    ]  # fmt: skip
    fill(ledger, studies)
    asked = {"now": NOW, "limits": LIMITS, "sort": sort, "user": "ada"}
    with ledger.read() as db:
        for wanted in (Filter(text="mull"), Filter(present=("edema",)), Filter(read=False, text="jorg")):
            whole = expected(studies, wanted, "ada", sort)
            for limit, walked in ((1, 2), (3, 5), (3, 12), (8, 25)):
                effort = Effort(gathered=0, gathered_of_several=0, walked=walked, walked_by_row=walked)
                walk_there_and_back(db, wanted, whole, may_end=True, limit=limit, effort=effort, **asked)


@settings(max_examples=200, deadline=None)
@given(one=STUDIES, now=st.floats(NOW - 50_000, NOW + 50_000))
def test_the_order_is_as_it_is_documented(one: list[Study], now: float) -> None:
    """The four sentences of the module, said without its arithmetic."""
    limit = {0: 900, 1: 3600, 2: 14_400, 3: 14_400}
    places = [(place_of(s.rank, s.received_at, s.read_at, now=now, limits=LIMITS), s) for s in one]
    for place, s in places:
        overdue = s.rank > 0 and s.received_at + limit[s.rank] <= now
        group = (
            Group.READ if s.read_at is not None
            else Group.CRITICAL if s.rank == 0
            else Group.OVERDUE if overdue
            else Group.URGENT if s.rank == 1
            else Group.ROUTINE
        )  # fmt: skip
        assert place.group is group
    for place, s in places:
        for other, t in places:
            if place.group is other.group and place.group is Group.READ:
                assert (place < other) == ((-s.read_at, s.rank) < (-t.read_at, t.rank))  # type: ignore[operator]
            elif place.group is other.group and s.rank == t.rank and s.received_at < t.received_at:
                assert place < other, "of two alike the older goes first"
            elif place.group is other.group is Group.ROUTINE and (s.received_at, -s.rank) < (t.received_at, -t.rank):
                assert place < other, "what the AI did not look at does not stand below what it called routine"


def test_a_study_that_the_ai_raises_never_moves_down() -> None:
    for hours in range(0, 20):
        for read_at in (None, NOW):
            places = [place_of(rank, NOW - 3600 * hours, read_at, now=NOW, limits=LIMITS) for rank in (3, 2, 1, 0)]
            groups = [place.group for place in places]
            # past its own limit a study may stand among the overdue before urgent ones do: never the other way
            assert groups[0] is groups[1]
            assert groups[3] <= min(groups)


def test_pages_go_on_where_they_were_while_the_list_changes(ledger: Ledger) -> None:
    studies = [Study(f"1.2.{n}", received_at=NOW - n) for n in range(100, 130)]
    fill(ledger, studies)
    with ledger.read() as db:
        first = page(db, now=NOW, limits=LIMITS, limit=10)
    whole = expected(studies, Filter(), "", "")
    assert uids(first) == whole[:10]
    with ledger.write() as db:  # three of the first page are read, a critical one comes
        read = text("UPDATE tasks SET read_at = 1 WHERE study_instance_uid IN ('1.2.129', '1.2.128', '1.2.120')")
        db.execute(read)
        tasks.enqueue(db, Arrival("1.9"), now=NOW + 1)
    with ledger.read() as db:  # an hour later
        second = page(db, now=NOW + 36_000, limits=LIMITS, limit=10, after=first.next)
        back = page(db, now=NOW + 36_000, limits=LIMITS, limit=10, before=second.previous)
    assert uids(second) == whole[10:20]
    assert uids(back)[0] == "1.2.127", "too few are left before it: the first page"
    assert (len(back.rows), back.previous) == (10, "")


def test_groups_and_limits_are_told_with_each_row(ledger: Ledger) -> None:
    fill(ledger, [Study("1.1", rank=1, received_at=NOW - 3600), Study("1.2", rank=3), Study("1.3", read_at=NOW - 5)])
    with ledger.read() as db:
        rows = page(db, now=NOW, limits=LIMITS).rows
    told = [(row["study_instance_uid"], row["group"], row["due_at"], row["changed"]) for row in rows]
    assert told == [
        ("1.1", "overdue", NOW, False),
        ("1.2", "routine", NOW - 60 + 14_400, False),
        ("1.3", "read", NOW - 60 + 14_400, True),
    ]


def test_counting_ends_at_a_thousand(ledger: Ledger) -> None:
    fill(ledger, [Study(f"1.2.{n}", rank=n % 4, name="Doe^Jane") for n in range(1100)])
    with ledger.read() as db:
        for way, effort in EFFORTS.items():
            several = page(db, Filter(text="doe", read=False), now=NOW, effort=effort).count
            assert not several.exact, way
            for wanted in (Filter(), Filter(text="jane"), Filter(read=False)):
                assert str(page(db, wanted, now=NOW, effort=effort).count) == "1000+", way
            assert page(db, Filter(reason="view"), now=NOW, effort=effort).count == Count(0, True)


@pytest.mark.parametrize(
    "asked",
    [{"status": "nonsense"}, {"priority": "critical,high"}, {"present": "Pneumo thorax"}, {"read": "perhaps"},
     {"study_from": "yesterday"}, {"reason": "a b"}, {"colour": "red"}, {"text": "a b c d e f g h i"},
     {"text": "x" * 500}, {"status": "removed"}, {"study_until": "2026010"}],
)  # fmt: skip
def test_a_condition_that_says_nothing_is_refused_and_named(asked: dict[str, str]) -> None:
    with pytest.raises(FilterInvalid) as refused:
        Filter.from_fields(asked)
    (value,) = asked.values()
    assert "text" not in asked or value not in str(refused.value)


@given(wanted=FILTERS)
def test_a_filter_comes_back_from_the_fields_of_a_form(wanted: Filter) -> None:
    told = {name: value for name, value in wanted.to_fields().items()}
    assert Filter.from_fields(told) == replace(wanted, text=wanted.text.strip())
    assert all(isinstance(value, str) for value in told.values())


def test_dates_come_as_browsers_send_them() -> None:
    assert Filter.from_fields({"study_from": "2026-01-02", "mine": "no"}) == Filter(study_from="20260102")


@pytest.mark.parametrize("token", ["x", "AAAA", "é", "bnVsbA", "WzEsMiwzXQ"])
def test_a_cursor_of_something_else_is_refused(ledger: Ledger, token: str) -> None:
    fill(ledger, [Study(f"1.2.{n}") for n in range(100, 110)])
    with ledger.read() as db:
        with pytest.raises(FilterInvalid):
            page(db, now=NOW, after=token)
        other = page(db, now=NOW, limit=3, sort="received").next
        with pytest.raises(FilterInvalid, match="another order"):
            page(db, now=NOW, limit=3, after=other)
        for edges in ({"before": token}, {"before": other, "after": other}, {"before": other, "offset": 3}):
            with pytest.raises(FilterInvalid):
                page(db, now=NOW, **edges)  # type: ignore[arg-type]
        for wrong in ({"limit": 0}, {"limit": 501}, {"offset": -1}, {"offset": 10_001}, {"sort": "colour"}):
            with pytest.raises(FilterInvalid):
                page(db, now=NOW, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "told",
    [
        "[" * 1500,
        "[[[]]]",
        "{}",
        '["",[1],[0,0,0],"1",0]',
        '["",1e9,["a",0,0],"1",0]',
        '["",1e9,[true,0,0],"1",0]',
        '["",1e9,[0,0,NaN],"1",0]',
        '["",1e400,[0,0,0],"1",0]',
        '["",1e9,[0,0,0],"1",-1]',
        f'["",1e9,[1{"0" * 400},0,0],"1",0]',
    ],
)
def test_a_cursor_that_was_made_up_is_refused(ledger: Ledger, told: str) -> None:
    """Read in the web server's thread, which has little room on its stack: nested brackets would end Orthanc."""
    made_up = base64.urlsafe_b64encode(told.encode()).decode().rstrip("=")
    with ledger.read() as db, pytest.raises(FilterInvalid, match="no cursor"):
        page(db, now=NOW, after=made_up)


def test_no_cursor_names_a_patient(ledger: Ledger) -> None:
    import base64

    fill(ledger, [Study(f"1.2.{n}", name="Secret^Name") for n in range(100, 110)])
    with ledger.read() as db:
        for sort in ("", *SORTS, *(f"-{name}" for name in SORTS)):
            token = page(db, now=NOW, limit=3, sort=sort).next
            assert b"secret" not in base64.urlsafe_b64decode(token + "==").lower()


# --- search


@pytest.mark.parametrize(
    ("name", "asked", "found"),
    [
        ("Müller^Jörg", "muller", True), ("MULLER^A", "MÜLL", True), ("Jørgen^Åse", "jorgen ase", True),
        ("Straße^X", "strasse", True), ("Łukasz^Ż", "lukasz z", True), ("Doe^Jane", "jane doe", True),
        ("Doe^Jane", "ane", False), ("O'Brien^Pat", "obrien", True), ("O'Brien^Pat", "o'brien", True),
        ("Smith-Jones^A", "jones", True), ("Петров^Пётр", "петр", True),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "太郎", True),
        ("Hong^Gildong=洪^吉洞=홍^길동", "길", True), ("ﷺ^Ｆｕｌｌ", "full", True), ("Doe^Jane", "doe*", True),
        ("Doe^Jane", "%", False), ("Doe^Jane", "d_e", False), ("Doe^Jane", "doe' OR '1'='1", False),
        ("Doe^Jane", "\0", False), ("Doe^Jane", "doe\ud800", True), ("x" * 100, "x" * 90, True),
    ],
)  # fmt: skip
def test_a_patient_is_found_by_the_beginnings_of_words(ledger: Ledger, name: str, asked: str, found: bool) -> None:
    fill(ledger, [Study("1.2.3", name=name)])
    with ledger.read() as db:
        for way, effort in EFFORTS.items():
            assert bool(page(db, Filter(text=asked), now=NOW, effort=effort).rows) == found, way


def test_patient_id_and_accession_number_are_found_with_and_without_what_parts_them(ledger: Ledger) -> None:
    with ledger.write() as db:
        tasks.enqueue(db, Arrival("1.2", "Doe^J", "AB-123/4", accession_number="2026.77"), now=NOW)
    with ledger.read() as db:
        for asked in ("ab-123/4", "AB1234", "ab1", "2026.7", "202677", "doe 77"):
            assert uids(page(db, Filter(text=asked), now=NOW)) == ["1.2"], asked
        assert not page(db, Filter(text="123x"), now=NOW).rows


def test_a_corrected_patient_is_found_by_the_new_name_alone_and_a_removed_one_not_at_all(ledger: Ledger) -> None:
    def found(asked: str) -> list[str]:
        with ledger.read() as db:
            return uids(page(db, Filter(text=asked), now=NOW))

    with ledger.write() as db:
        tasks.enqueue(db, Arrival("1.2", "Wrong^Jane", "7"), now=1)
        tasks.enqueue(db, Arrival("1.2", "Right^Jane", "7"), now=2)
        tasks.enqueue(db, Arrival("1.2", "", "7"), now=3)
    assert (found("wrong"), found("right jane 7")) == ([], ["1.2"])
    with ledger.write() as db:
        assert tasks.mark_removed(db, "1.2", seen=3, now=4)
    assert found("right") == []
    with ledger.read() as db:
        assert db.execute(text("SELECT count(*) FROM search_terms")).scalar() == 0
    with ledger.write() as db:
        tasks.enqueue(db, Arrival("1.2", "Right^Jane", "7"), now=5)
    assert found("right") == ["1.2"]


def test_an_answer_replaces_the_findings_of_the_one_before(ledger: Ledger) -> None:
    def answer(*findings: tuple[str, str, float | None]) -> None:
        images = [
            {
                "status": "done",
                "findings": [{"key": k, "state": s, "probability": p, "laterality": None, "regions": []}],
            }
            for k, s, p in findings
        ]
        with ledger.write() as db:
            tasks.enqueue(db, Arrival("1.2"), now=1)
            task = tasks.claim(db, "w", now=2, lease_seconds=60, abandoned_limit=3)
            assert task is not None
            tasks.answer(db, task, Outcome(TaskStatus.DONE, "urgent", 1, {"version": 1, "images": images}), now=3,
                         conclude_at=None)  # fmt: skip

    def found(**wanted: Any) -> bool:
        with ledger.read() as db:
            return bool(page(db, Filter(**wanted), now=NOW).rows)

    answer(("edema", "undetermined", 0.4), ("edema", "present", 0.7), ("mass", "absent", 0.1))
    assert found(present=("edema",))
    assert not found(undetermined=("edema",))
    assert not found(present=("mass",))
    answer(("edema", "undetermined", 0.4), ("covid_typical", "present", None))
    assert found(undetermined=("edema",), present=("covid_typical",))
    assert not found(present=("edema",))


def numbers(ledger: Ledger) -> list[tuple[str, int, int]]:
    """How many findings each study has that are present, and undetermined, as its task says."""
    with ledger.read() as db:
        rows = db.execute(text("SELECT study_instance_uid, present, undetermined FROM tasks ORDER BY 1"))
        return [tuple(row) for row in rows]


def test_the_most_findings_come_first_of_as_many_the_most_undetermined_then_the_latest(ledger: Ledger) -> None:
    present, undetermined, absent = "present", "undetermined", "absent"
    fill(
        ledger,
        [
            Study("1.1", findings={"edema": present, "mass": present, "nodule": absent}),
            Study("1.2", findings={"edema": present, "mass": undetermined, "nodule": undetermined}),
            Study("1.3", findings={"edema": present, "mass": undetermined}, received_at=NOW - 90),
            Study("1.4", findings={"hernia": present, "mass": undetermined}, received_at=NOW - 30),
            Study("1.5", findings={"no_finding": present, "edema": absent}, received_at=NOW - 50),
            Study("1.6", findings={"mass": undetermined}),
            Study("1.8", findings={"edema": present, "mass": present}, status="removed"),
        ],
    )
    with ledger.write() as db:
        tasks.enqueue(db, Arrival("1.7"), now=NOW - 40)
    order = ["1.1", "1.2", "1.4", "1.3", "1.6", "1.7", "1.5"]
    with ledger.read() as db:
        assert uids(page(db, now=NOW, sort="-findings")) == order
        assert uids(page(db, now=NOW, sort="findings")) == order[::-1]


def test_the_number_of_findings_is_that_of_the_latest_answer(ledger: Ledger) -> None:
    def answer(*states: str) -> list[tuple[str, int, int]]:
        found = [{"key": f"key_{n}", "state": state, "probability": 0.5} for n, state in enumerate(states)]
        with ledger.write() as db:
            tasks.enqueue(db, Arrival("1.2"), now=1)
            task = tasks.claim(db, "w", now=2, lease_seconds=60, abandoned_limit=3)
            assert task is not None
            result = {"version": 1, "images": [{"findings": found[:2]}, {"findings": found}]}
            tasks.answer(db, task, Outcome(TaskStatus.DONE, "none", 3, result), now=3, conclude_at=None)
        return numbers(ledger)

    assert answer("present", "undetermined", "present", "absent") == [("1.2", 2, 1)]
    assert answer("undetermined", "absent") == [("1.2", 0, 1)]
    assert answer("present") == [("1.2", 1, 0)]
    with ledger.write() as db:
        assert tasks.mark_removed(db, "1.2", seen=3, now=4)
    assert numbers(ledger) == [("1.2", 0, 0)]


def test_what_says_that_nothing_was_found_is_known() -> None:
    assert derived._OF_ABSENCE == OF_ABSENCE


def test_studies_of_an_earlier_ledger_are_made_to_be_found(ledger: Ledger) -> None:
    studies = [Study(f"1.2.{n}", name="Doe^Jane", findings={"edema": "present"}) for n in range(100, 125)]
    fill(ledger, studies)
    with ledger.write() as db:
        db.execute(text("UPDATE tasks SET search_words = NULL, answer_version = 0, present = 0, undetermined = 9"))
        db.execute(text("DELETE FROM search_terms"))
        db.execute(text("DELETE FROM study_findings"))
    with ledger.read() as db:
        assert not page(db, now=NOW).searchable
        assert len(page(db, now=NOW, sort="patient").rows) == 25
    taken = []
    while not taken or taken[-1]:
        with ledger.write() as db:
            taken.append(derive_missing(db, 10))
    assert taken == [10, 10, 5, 0]
    with ledger.read() as db:
        found = page(db, Filter(text="doe", present=("edema",)), now=NOW)
    assert (len(found.rows), found.searchable, found.rows[0]["answer_version"]) == (25, True, 1)
    assert numbers(ledger) == [(study.uid, 1, 0) for study in studies]


def test_the_latest_critical_studies_are_told_with_the_number_of_all(ledger: Ledger) -> None:
    fill(
        ledger,
        [
            *(Study(f"1.2.{n}", rank=0, received_at=NOW - n) for n in range(100, 110)),
            Study("1.3.1", rank=0, read_at=NOW),
            Study("1.3.2", rank=0, status="removed"),
            Study("1.3.3", rank=1, received_at=NOW),
        ],
    )
    with ledger.read() as db:
        assert unread_critical(db, 3) == Alarm(10, ("1.2.100", "1.2.101", "1.2.102"))


def test_no_name_stands_over_the_findings_of_several_patients(ledger: Ledger) -> None:
    fill(ledger, [Study("1.1", name="Doe^Jane", reason="several_patients"), Study("1.2", name="Doe^Jane")])
    with ledger.read() as db:
        one, other = page(db, now=NOW).rows
    assert (one["patient_name"], one["patient_id"], one["accession_number"]) == ("Several patients", "", "")
    assert (other["patient_name"], other["patient_id"]) == ("Doe^Jane", "ID-1.2")


def test_the_way_through_all_studies_tells_which_answers_cannot_be_read(ledger: Ledger) -> None:
    fill(ledger, [Study(f"1.{n}") for n in range(5)])
    with ledger.write() as db:
        db.execute(text("UPDATE tasks SET result = '{\"images\": [' WHERE study_instance_uid = '1.3'"))
    with ledger.read() as db:
        passed = after(db, "1.0", 3)
    assert [(p.study_instance_uid, p.is_damaged) for p in passed] == [("1.1", False), ("1.2", False), ("1.3", True)]
    assert all(p.standing.status is TaskStatus.DONE for p in passed)


def test_what_a_study_is_found_by_comes_through_an_older_schema_and_back(ledger: Ledger) -> None:
    findings = {"edema": "present", "mass": "undetermined", "nodule": "undetermined", "no_finding": "present"}
    fill(
        ledger,
        [
            *(Study(f"1.2.{n}", name="Müller^Jörg", findings=findings) for n in range(100, 110)),
            Study("1.3", findings={"effusion": "absent"}),
        ],
    )
    counted = numbers(ledger)
    assert counted == [*((f"1.2.{n}", 1, 2) for n in range(100, 110)), ("1.3", 0, 0)]
    for schema in (4, 6, 5, 6, 3, 6):  # schema 3 has neither words nor findings: they are made anew
        before = migrate(ledger, schema)
        if (before, schema) in ((4, 6), (5, 6)):
            assert numbers(ledger) == counted
        if schema == 4:
            with ledger.read() as db:
                assert db.execute(text("SELECT count(*) FROM search_terms WHERE term = 'muller'")).scalar() == 10
                assert db.execute(text("SELECT count(*) FROM study_findings WHERE key = 'edema'")).scalar() == 10
        if schema == 6:
            with ledger.write() as db:
                derive_missing(db, 100)
            with ledger.read() as db:
                found = page(db, Filter(text="jorg mull", present=("edema",), undetermined=("mass",)), now=NOW)
                assert len(found.rows) == 10
                assert not page(db, Filter(undetermined=("edema",)), now=NOW).rows
            assert numbers(ledger) == counted


def test_the_number_of_findings_comes_with_a_dump_and_is_made_anew(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, [Study("1.1", findings={"edema": "present", "mass": "undetermined"}), Study("1.2")])
    lines = [line.replace('"present":1,', '"present":7,') for line in dump(ledger)]
    assert any('"present":7,' in line for line in lines)
    other = open_ledger(tmp_path / "other.sqlite")
    load(other, lines)
    assert numbers(other) == numbers(ledger) == [("1.1", 1, 1), ("1.2", 0, 0)]
    other.close()


# --- filters that are kept


def test_a_person_keeps_filters_of_their_own(ledger: Ledger) -> None:
    wanted = NamedFilter("Night", Filter(read=False, present=("edema",), text="é'%"), "-received")
    with ledger.write() as db:
        save_filter(db, "ada", wanted)
        save_filter(db, "ada", replace(wanted, sort=""))
        assert saved_filters(db, "ada") == [replace(wanted, sort="")]
        assert saved_filters(db, "ben") == []
        for name in ("", "x" * 61, NAMED[0].name):
            with pytest.raises(FilterInvalid, match="name"):
                save_filter(db, "ada", replace(wanted, name=name))
        assert delete_filter(db, "ada", "Night")
        assert not delete_filter(db, "ada", "Night")


def test_the_filters_of_everybody_can_be_asked(ledger: Ledger) -> None:
    fill(ledger, [Study("1.1", rank=0), Study("1.2", status="quarantined", rank=3), Study("1.3", assigned_to="ada")])
    with ledger.read() as db:
        found = {f.name: uids(page(db, f.filter, sort=f.sort, user="ada", now=NOW)) for f in NAMED}
    assert found == {
        "unread_critical": ["1.1"],
        "unread": ["1.1", "1.2", "1.3"],
        "my_list": ["1.3"],
        "failed": ["1.2"],
        "not_processed": [],
    }
