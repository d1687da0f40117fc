"""The appearance for COVID-19 pneumonia: boxes placed by hand on computed chests, and every set of states."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped_criteria import CONTRACT, IDENTITY, derive

from models import appearance
from models.appearance import Appearance, AppearanceClass
from models.findings import (
    PROBABILITY,
    SHARE,
    BoolMask,
    Finding,
    FindingState,
    Laterality,
    Region,
    SegmentMask,
    Sense,
)
from models.hanging import Hanging
from models.opacities import LungFields, Opacity, lung_fields, measure
from models.phantom import chest

PRESENT, ABSENT = FindingState.PRESENT, FindingState.ABSENT
OPEN, UNSEEN = FindingState.UNDETERMINED, FindingState.NOT_EVALUATED
RIGHT, LEFT = Laterality.RIGHT, Laterality.LEFT
# What a set of models that looks for everything finds on a normal chest.
EVERYTHING = (
    "lung_opacity", "pneumothorax", "effusion", "edema", "diffuse_nodules", "cavity", "nodule", "mass",
    "consolidation", "infiltration", "pneumonia",
)  # fmt: skip


@cache
def segments() -> tuple[SegmentMask, SegmentMask]:
    masks = chest(5).masks
    return tuple(SegmentMask(key, masks[key], "test") for key in ("lung_right", "lung_left"))  # type: ignore[return-value]


@cache
def lungs() -> LungFields:
    found = lung_fields(segments())
    assert found is not None
    return found


def box(side: Laterality, *, from_wall: float, height: float, width: float = 60, tall: float = 60) -> Region:
    """A box whose centre lies at a share of the lung's width from its outer border, and of both lungs' height."""
    both = segments()[0].mask | segments()[1].mask
    rows = np.flatnonzero(both.any(axis=1))
    y = rows[0] + height * (rows[-1] + 1 - rows[0])
    across = np.flatnonzero(segments()[0 if side is RIGHT else 1].mask[int(y)])
    first, last = across[0], across[-1] + 1
    x = first + from_wall * (last - first) if side is RIGHT else last - from_wall * (last - first)
    return Region(x - width / 2, y - tall / 2, width, tall, 0.8, side)


def disc(*centres: Region, radius: float = 45) -> BoolMask:
    y, x = np.mgrid[:1024, :1024] + 0.5
    shown = np.zeros((1024, 1024), np.bool_)
    for r in centres:
        shown |= np.hypot(x - r.x - r.width / 2, y - r.y - r.height / 2) < radius
    return shown


def findings(*regions: Region, **states: FindingState) -> list[Finding]:
    """Everything was looked for; there is an opacity where boxes are given."""
    given_states = {"lung_opacity": PRESENT if regions else ABSENT, **states}
    numbers = {PRESENT: 0.8, OPEN: 0.4, ABSENT: 0.1}
    return [
        Finding(
            key,
            state := given_states.get(key, ABSENT),
            numbers.get(state),
            None if state is UNSEEN else 0.5,
            regions=regions if key == "lung_opacity" else (),
            reason="evidence" if state is UNSEEN else None,
        )
        for key in dict.fromkeys((*EVERYTHING, *given_states))
    ]


def look(*regions: Region, mask: BoolMask | None = None, **states: FindingState) -> Appearance:
    return derive(findings(*regions, **states), lungs(), mask)


def line(found: Appearance, key: str) -> appearance.Criterion:
    return next(criterion for criterion in found.criteria if criterion.key == key)


def on(side: Laterality, from_wall: float = 0.25, height: float = 0.7) -> Region:
    return box(side, from_wall=from_wall, height=height)


OTHER = {RIGHT: LEFT, LEFT: RIGHT}
both_sides = pytest.mark.parametrize("side", [RIGHT, LEFT])


def test_peripheral_lower_opacities_of_both_lungs_are_typical() -> None:
    found = look(on(RIGHT), on(LEFT))
    assert found.label is AppearanceClass.TYPICAL
    assert not found.limitations
    assert found.reason is None
    assert [line(found, key).met for key in ("multifocal", "bilateral", "peripheral", "lower_lung")] == [True] * 4
    assert [line(found, key).met for key in ("unilateral", "central", "upper_lung")] == [False] * 3
    assert (line(found, "multifocal").value, line(found, "bilateral").value) == (2, 2)
    assert line(found, "lower_lung").value == 1.0


@both_sides
def test_opacities_of_one_lung_alone_are_indeterminate(side: Laterality) -> None:
    found = look(on(side), on(side, height=0.55))
    assert found.label is AppearanceClass.INDETERMINATE
    assert (line(found, "unilateral").met, line(found, "bilateral").met, line(found, "multifocal").met) == (
        True, False, True,
    )  # fmt: skip


def test_central_opacities_are_indeterminate() -> None:
    found = look(on(RIGHT, 0.8), on(LEFT, 0.8))
    assert found.label is AppearanceClass.INDETERMINATE
    assert (line(found, "central").met, line(found, "peripheral").met) == (True, False)
    assert [opacity.from_wall for opacity in found.opacities] == pytest.approx([0.8, 0.8], abs=0.06)


def test_upper_lung_opacities_are_indeterminate() -> None:
    found = look(on(RIGHT, height=0.3), on(LEFT, height=0.3))
    assert found.label is AppearanceClass.INDETERMINATE
    assert (line(found, "upper_lung").value, line(found, "upper_lung").met, line(found, "lower_lung").met) == (
        1.0, True, False,
    )  # fmt: skip


def test_no_opacity_is_negative() -> None:
    found = look()
    assert found.label is AppearanceClass.NEGATIVE
    assert line(found, "no_opacity").met
    assert line(found, "no_opacity").value == 0.1
    assert line(found, "multifocal").value == 0
    assert line(found, "peripheral").value is None


@pytest.mark.parametrize("key", ["pneumothorax", "effusion", "edema", "diffuse_nodules", "cavity", "nodule", "mass"])
@pytest.mark.parametrize("typical", [False, True])
def test_a_finding_of_the_table_makes_it_atypical_beside_any_opacities(key: str, typical: bool) -> None:
    found = look(*((on(RIGHT), on(LEFT)) if typical else ()), **{key: PRESENT})
    assert found.label is AppearanceClass.ATYPICAL
    met = [criterion for criterion in found.criteria if criterion.speaks_for is found.label and criterion.met]
    assert [(criterion.value, criterion.threshold) for criterion in met] == [(0.8, 0.5)]
    assert line(found, "lower_lung").met is typical  # what the opacities look like is told all the same


def test_two_boxes_around_nodules_are_no_solitary_nodule() -> None:
    given = [replace(f, state=PRESENT, regions=(on(RIGHT), on(LEFT))) if f.key == "nodule" else f for f in findings()]
    found = derive(given, lungs())
    assert line(found, "solitary_nodule_or_mass").reason == "not_solitary"
    assert found.label is AppearanceClass.NEGATIVE


@both_sides
def test_consolidation_as_large_as_a_lobe_is_atypical(side: Laterality) -> None:
    lobe = box(side, from_wall=0.5, height=0.7, width=260, tall=260)
    found = look(lobe, consolidation=PRESENT)
    assert found.label is AppearanceClass.ATYPICAL
    assert (line(found, "lobar_consolidation").value or 0) > CONTRACT.lobar
    assert look(lobe).label is AppearanceClass.INDETERMINATE  # no consolidation
    assert look(on(side), consolidation=PRESENT).label is AppearanceClass.INDETERMINATE  # too small
    assert look(lobe, on(OTHER[side]), consolidation=PRESENT).label is not AppearanceClass.ATYPICAL  # not the only one
    assert look(lobe, consolidation=UNSEEN).limitations == ("lobar_consolidation",)


def test_rounded_lower_lung_opacities_are_typical_only_where_their_outline_is_known() -> None:
    places = on(RIGHT, 0.5, 0.55), on(RIGHT, 0.5, 0.75)
    outlined = look(*places, mask=disc(*places))
    assert outlined.label is AppearanceClass.TYPICAL
    assert (line(outlined, "rounded").value, line(outlined, "rounded").met) == (2, True)
    boxed = look(*places)
    assert boxed.label is AppearanceClass.INDETERMINATE
    assert (line(boxed, "rounded").met, line(boxed, "rounded").reason) == (None, "no_outline")
    assert boxed.limitations == ("rounded",)
    assert {f.key: f.state for f in boxed.findings(IDENTITY.name)}["covid_typical"] is UNSEEN
    single = look(places[0], mask=disc(places[0]))
    assert (line(single, "rounded").met, single.label) == (False, AppearanceClass.INDETERMINATE)


def test_elongated_boxes_are_not_round() -> None:
    slim = [box(RIGHT, from_wall=0.3, height=h, width=40, tall=100) for h in (0.5, 0.75)]
    assert (line(look(*slim), "rounded").value, line(look(*slim), "rounded").met) == (0, False)


@pytest.mark.parametrize(("wide", "tall"), [(1, 1), (2, 1), (3, 2)])
def test_roundness_of_an_ellipse_is_that_of_its_axes(wide: int, tall: int) -> None:
    y, x = np.mgrid[:1024, :1024] + 0.5
    centre = on(RIGHT, 0.5, 0.6)
    dx, dy = x - centre.x - 30, y - centre.y - 30
    (opacity,) = measure(lungs(), mask=(dx / (30 * wide)) ** 2 + (dy / (30 * tall)) ** 2 < 1)
    assert opacity.roundness == pytest.approx(2 * wide * tall / (wide**2 + tall**2), abs=0.01)
    flat = measure(replace(lungs(), aspect=2.0), mask=(dx / (60 * tall)) ** 2 + (dy / (30 * tall)) ** 2 < 1)
    assert flat[0].roundness == pytest.approx(1.0, abs=0.01)  # pixels twice as high as wide make it a disc


def test_half_the_way_to_the_chest_wall_is_peripheral_and_just_beyond_is_central() -> None:
    outer, inner = measure(lungs(), [on(RIGHT, 0.46, 0.5), on(RIGHT, 0.56, 0.5)])
    assert outer.from_wall < CONTRACT.outer_half < inner.from_wall
    of = line(look(on(RIGHT, 0.46), on(LEFT, 0.46)), "peripheral")
    assert (of.value, of.threshold, of.sense, of.met) == (1.0, 0.5, ">=", True)


def test_exactly_half_in_the_lower_lung_is_predominant() -> None:
    square = np.zeros((100, 100), np.bool_)
    right, left = square.copy(), square.copy()
    right[10:90, 10:40], left[10:90, 60:90] = True, True
    field = LungFields(right, left)
    halves = Region(10, 40, 10, 20, 0.8), Region(80, 40, 10, 20, 0.8)
    found = derive(findings(*halves), field)
    assert line(found, "lower_lung").value == 0.5
    assert found.label is AppearanceClass.TYPICAL
    higher = derive(findings(*(replace(r, y=39) for r in halves)), field)
    assert line(higher, "upper_lung").value == pytest.approx(0.55)
    assert higher.label is AppearanceClass.INDETERMINATE


def test_a_box_across_the_mediastinum_is_an_opacity_of_each_lung() -> None:
    parts = measure(lungs(), [Region(300, 500, 424, 100, 0.8)])
    assert [part.side for part in parts] == [RIGHT, LEFT]
    assert all(part.from_wall > 0.5 for part in parts)


@both_sides
def test_a_box_below_the_outlines_is_kept_on_its_side(side: Laterality) -> None:
    (opacity,) = measure(lungs(), [replace(on(side), y=960)])
    assert (opacity.side, opacity.lower, opacity.of_lung) == (side, 1.0, 0.0)


@pytest.mark.parametrize(
    "hanging", [Hanging(t, r, c) for t in (False, True) for r in (False, True) for c in (False, True)], ids=str
)
def test_an_image_stored_in_another_way_has_the_same_appearance(hanging: Hanging) -> None:
    boxes = on(RIGHT), on(LEFT, 0.7, 0.3), box(LEFT, from_wall=0.3, height=0.8, width=90, tall=40)
    stored = [replace(s, mask=np.ascontiguousarray(hanging.undo(s.mask))) for s in segments()]
    field = lung_fields(stored, hanging)
    assert field is not None
    moved = [_to_stored(region, hanging) for region in boxes]
    expected = measure(lungs(), boxes)
    for found, wanted in zip(measure(field, moved), expected, strict=True):
        assert found.side is wanted.side
        assert _numbers(found) == pytest.approx(_numbers(wanted), abs=0.03)
    assert measure(field, mask=np.ascontiguousarray(hanging.undo(disc(*boxes))))[0].outlined


def _to_stored(region: Region, hanging: Hanging) -> Region:
    first = hanging.point_to_stored(region.x, region.y, 1024, 1024)
    last = hanging.point_to_stored(region.x + region.width, region.y + region.height, 1024, 1024)
    (x0, x1), (y0, y1) = sorted((first[0], last[0])), sorted((first[1], last[1]))
    return Region(x0, y0, x1 - x0, y1 - y0, region.score)


def _numbers(opacity: Opacity) -> list[float]:
    return [opacity.of_lung, opacity.lower, opacity.from_wall, opacity.roundness]


def test_a_mirrored_patient_has_the_same_appearance_on_the_other_side() -> None:
    right, left = (np.ascontiguousarray(s.mask[:, ::-1]) for s in segments())
    mirrored = lung_fields([SegmentMask("lung_right", left, "test"), SegmentMask("lung_left", right, "test")])
    assert mirrored is not None
    boxes = [on(RIGHT, 0.2, 0.8), on(RIGHT, 0.6, 0.3)]
    flipped = [replace(b, x=1024 - b.x - b.width) for b in boxes]
    for found, wanted in zip(measure(mirrored, flipped), measure(lungs(), boxes), strict=True):
        assert found.side is LEFT
        assert _numbers(found) == pytest.approx(_numbers(wanted), abs=0.03)


def test_specks_of_a_mask_are_no_opacities() -> None:
    place = on(RIGHT)
    speck = disc(place, radius=6)
    assert measure(lungs(), mask=speck) == ()
    assert len(measure(lungs(), [place], speck)) == 1  # then the boxes speak
    assert len(measure(lungs(), [place], disc(place, on(LEFT)) | disc(on(RIGHT, height=0.3), radius=6))) == 2


def test_what_was_not_looked_for_is_a_limitation() -> None:
    found = look(on(RIGHT), on(LEFT), effusion=UNSEEN, cavity=UNSEEN)
    assert found.label is AppearanceClass.TYPICAL
    assert found.limitations == ("effusion", "cavity")
    assert (line(found, "effusion").met, line(found, "effusion").reason) == (None, "evidence")
    states = {f.key: (f.state, f.reason) for f in found.findings(IDENTITY.name)}
    assert states["covid_typical"] == (PRESENT, None)
    assert states["covid_atypical"] == (UNSEEN, "evidence")
    assert states["covid_negative"] == (ABSENT, None)
    alone = derive([f for f in findings(on(RIGHT), on(LEFT)) if f.key == "lung_opacity"], lungs())
    assert set(alone.limitations) == {
        "pneumothorax", "effusion", "edema", "diffuse_nodules", "cavity", "solitary_nodule_or_mass",
    }  # fmt: skip


def test_an_undetermined_finding_of_the_table_is_a_limitation_and_leaves_atypical_open() -> None:
    found = look(on(RIGHT), on(LEFT), pneumothorax=OPEN)
    assert (found.label, found.reason) == (AppearanceClass.TYPICAL, None)
    assert (found.possible, found.limitations) == ((AppearanceClass.ATYPICAL,), ("pneumothorax",))
    assert [f.state for f in found.findings(IDENTITY.name)] == [PRESENT, ABSENT, OPEN, ABSENT]


def test_an_undetermined_opacity_leaves_every_class_open() -> None:
    found = look(lung_opacity=OPEN, effusion=OPEN)
    assert (found.label, found.reason) == (AppearanceClass.UNDETERMINED, "opacity_undetermined")
    assert set(found.possible) == set(appearance.CLASSES)
    assert {f.state for f in found.findings(IDENTITY.name)} == {OPEN}


def test_without_a_look_for_opacities_there_is_no_appearance_whatever_else_was_found() -> None:
    found = look(lung_opacity=UNSEEN, pneumothorax=PRESENT)
    assert (found.label, found.reason) == (AppearanceClass.NOT_EVALUATED, "evidence")
    assert line(found, "pneumothorax").met
    assert {(f.state, f.reason) for f in found.findings(IDENTITY.name)} == {(UNSEEN, "evidence")}
    assert derive([], None).reason == "no_model"


def test_opacities_that_cannot_be_placed_have_no_appearance() -> None:
    boxes = on(RIGHT), on(LEFT)
    assert derive(findings(*boxes), None).reason == "no_lungs"
    assert look(lung_opacity=PRESENT).reason == "no_regions"
    assert derive(findings(*boxes, pneumothorax=PRESENT), None).label is AppearanceClass.ATYPICAL
    assert lung_fields(segments()[:1]) is None
    assert lung_fields([segments()[0], replace(segments()[1], mask=np.zeros((1024, 1024), np.bool_))]) is None


def test_consolidation_without_an_opacity_is_a_contradiction_and_not_negative() -> None:
    found = look(consolidation=PRESENT)
    assert (found.label, found.reason) == (AppearanceClass.UNDETERMINED, "findings_disagree")
    assert (line(found, "no_other_opacity").value, line(found, "no_other_opacity").met) == (1, False)
    assert "lobar_consolidation" in found.limitations


def test_no_class_has_a_probability() -> None:
    found = look(on(RIGHT), on(LEFT))
    assert found.opacity_probability == 0.8
    assert {f.probability for f in found.findings(IDENTITY.name)} == {None}


def test_a_criterion_holds_from_on_or_beyond_its_threshold() -> None:
    assert [sense.holds(1, 2) for sense in Sense] == [False, False, True, True]
    assert [sense.holds(2, 2) for sense in Sense] == [True, False, True, False]
    assert [sense.holds(3, 2) for sense in Sense] == [True, True, False, False]


def test_a_probability_is_told_from_a_share() -> None:
    found = look(on(RIGHT), consolidation=PRESENT)
    assert (line(found, "no_opacity").unit, line(found, "no_opacity").sense) == (PROBABILITY, Sense.LESS_THAN)
    assert line(found, "lobar_consolidation").unit == SHARE
    assert line(look(on(RIGHT)), "lobar_consolidation").unit == PROBABILITY  # the finding was not called present


@settings(max_examples=300, deadline=None)
@given(
    states=st.fixed_dictionaries({key: st.sampled_from(list(FindingState)) for key in (*EVERYTHING, "lung_lesion")}),
    places=st.lists(st.tuples(st.sampled_from([RIGHT, LEFT]), st.floats(0.1, 0.9), st.floats(0.2, 0.8)), max_size=4),
    with_lungs=st.booleans(),
)
def test_every_combination_gives_a_class_or_a_reason(
    states: dict[str, FindingState], places: list[tuple[Laterality, float, float]], with_lungs: bool
) -> None:
    found = derive(findings(*(on(*place) for place in places), **states), lungs() if with_lungs else None)
    present = [f.key for f in found.findings(IDENTITY.name) if f.state is PRESENT]
    if found.label in appearance.CLASSES:
        assert present == [found.label.value]
        assert found.reason is None
        assert found.label is AppearanceClass.ATYPICAL or any(
            c.met for c in found.criteria if c.speaks_for is found.label
        )
    else:
        assert not present
        assert found.reason
        assert (len(found.possible) > 1) == (found.label is AppearanceClass.UNDETERMINED)
    atypical = [c for c in found.criteria if c.speaks_for is AppearanceClass.ATYPICAL]
    if any(c.met for c in atypical) and states["lung_opacity"] is not UNSEEN:
        assert found.label is AppearanceClass.ATYPICAL
    elif found.label is not AppearanceClass.NOT_EVALUATED:
        assert {c.key for c in atypical if c.met is None} <= set(found.limitations)
    for c in found.criteria:  # the numbers that are shown bear out what is said to be met
        if c.met is not None and c.value is not None and c.threshold is not None:
            assert c.sense.holds(c.value, c.threshold) is c.met, c
        assert c.threshold is not None or (c.sense, c.unit) == (Sense.AT_LEAST, SHARE)
        assert c.value is None or c.value == round(c.value, 6)
        assert (c.state is UNSEEN) <= bool(c.reason)
    assert len(found.criteria) == len({c.key for c in found.criteria}) == 17
    order = list(appearance.CLASSES)
    assert [order.index(AppearanceClass(c.speaks_for)) for c in found.criteria] == sorted(
        order.index(AppearanceClass(c.speaks_for)) for c in found.criteria
    )
