"""The benchmarks of speed say what they measured, and where; how fast it was is not a test's business."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from models.bundle import load_bundle
from models.findings import View
from models.forward import FloatArray
from models.inference import ImageIdentity, assemble
from models.phantom import chest
from models.rendering import RenderedImage
from models.runtime import Runtime
from orthanc_plugin.settings import REPOSITORY
from tests.bench import growth, latency, limits, machine, node_growth, plain_way, runtimes, stages, throughput
from tests.bench.sampling import sampled
from tests.bench.sheets import PAGE, Sheet, Spread, tell, with_section
from tests.bench.sources import Pictures
from tests.bench.starting import Memory, Starting, memory_of
from tests.bench.starting import sheets as starting_sheets
from tests.bench.throughput import Drain, Drained
from tests.bench.watching import Course, seconds_of

HERE = machine.Machine(2, "a processor", ("AVX2",), 16.0, {"Python": "3.11"}, 0.0)


def test_a_spread_tells_percentiles_of_what_was_measured() -> None:
    spread = Spread.of([float(n) for n in range(1, 101)])
    assert (spread.number, spread.lowest, spread.highest) == (100, 1.0, 100.0)
    assert (spread.p50, spread.p95) == pytest.approx((50.5, 95.05))
    assert spread.cells(1) == ("100", "50.5", "95.0", "99.0", "1.0 to 100.0")


def test_a_bench_writes_its_own_section_and_no_other() -> None:
    begin, end = "<!-- ./hilum bench one --write -->\n", "<!-- end of one -->"
    page = f"by hand\n{begin}old\n{end}\nby hand too\n"
    assert with_section(page, "one", "new") == f"by hand\n{begin}new\n{end}\nby hand too\n"
    with pytest.raises(ValueError, match="no section 'two'"):
        with_section(page, "two", "new")


@pytest.mark.parametrize(
    "section",
    [
        "latency",
        "throughput",
        "runtimes",
        "stages",
        "starting",
        "ray",
        "reprocess",
        *(f"growth {p.name}" for p in growth.PARTS),
    ],
)
def test_the_page_has_a_section_for_each_bench(section: str) -> None:
    assert "anew" in with_section(PAGE.read_text("utf-8"), section, "anew")


def test_what_is_printed_stands_on_the_page_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- ./hilum bench one --write -->\n<!-- end of one -->\n", "utf-8")
    monkeypatch.setattr("tests.bench.sheets.PAGE", page)
    sheet = Sheet("A title", ("what", "s"), (("a thing", "1.25"),), "A note.")
    tell("one", [sheet], HERE, write=True, text="lines\n  as they are")
    printed, written = capsys.readouterr().out, page.read_text("utf-8")
    for told in ("2 cores of a processor", "A title", "a thing", "1.25", "A note.", "  as they are"):
        assert told in printed
        assert told in written
    assert "| a thing | 1.25 |" in written


def test_a_machine_is_told_by_its_kind_and_not_by_its_name() -> None:
    here = machine.describe()
    assert here.cores >= 1
    assert here.memory_gb > 0
    assert {"Python", "torch", "pydicom"} <= set(here.versions)
    assert os.uname().nodename not in str(here)
    kind = "processor : 0\nmodel name : A kind\nflags : fpu avx2 avx512_bf16 avx512_vnni\nserial : 123\n"
    assert machine._processor(kind) == ("A kind", ("AVX2", "VNNI", "bf16"))


def test_studies_of_one_run_differ_in_everything_but_their_pixels() -> None:
    pictures = Pictures.of_size(120, 100, kinds=2)
    first, second, third = (pictures.study("run", number) for number in range(3))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID"):
        assert len({str(ds[keyword].value) for ds in (first, second, third)}) == 3
    assert first.PixelData == third.PixelData != second.PixelData
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert pictures.study("run", 0) == first


def test_objects_are_stored_when_both_are_and_a_study_that_was_not_read_stops_the_bench() -> None:
    course = Course(100.0, flagged_at=100.3, stored_at={"SEG": 100.5, "SR": 100.6})
    assert [course.seconds(m) for m in ("flagged", "objects", "report")] == pytest.approx([0.3, 0.6, None])
    assert Course(100.0, stored_at={"SR": 100.6}).seconds("objects") is None
    with pytest.raises(SystemExit, match="1 of 2 studies never came so far as: objects"):
        seconds_of([course, Course(100.0, status="not_processed")], "objects")


def test_throughput_is_compared_by_studies_a_second() -> None:
    two = Spread.of([2.0])
    cost = {"orthanc": 0.06, "reader": 0.14}
    node = Drained(1, answered=4.0, drained=5.0, passes=(2.0,), processor=cost, memory=800.0)
    drain = Drain(HERE, 10, (node,), warm=two, cold=two, plain_processor={"plain way": 0.5})
    assert drain.ratio(node) == pytest.approx(4.0)
    assert throughput.sheets(drain)[-1].rows[0][-2:] == ("200", "10.0")


def test_the_memory_of_the_plugin_is_what_orthanc_holds_more_with_it() -> None:
    some = dict.fromkeys(("worker", "fork_server", "reader", "intake"), Memory(300.0, 400.0, 250.0))
    idle = some | {"orthanc": Memory(80.0, 80.0, 80.0), "bare": Memory(30.0, 30.0, 30.0)}
    busy = some | {"orthanc": Memory(290.0, 300.0, 290.0), "bare": Memory(200.0, 200.0, 200.0)}
    measured = Starting(HERE, 9.0, Spread.of([6.0]), Spread.of([5.5]), idle, busy)
    seconds, memory = starting_sheets(measured)
    assert [row[-1] for row in seconds.rows] == ["", "aim 8 s: held", "aim 5 s: missed"]
    told = {row[0]: row for row in memory.rows}
    assert told["the plugin"] == ("the plugin", "50", "90", "", "", "aim 60 MB: missed")
    assert told["all of the worker"][-2:] == ("1000", "aim 900 MB: missed")
    assert 1.0 < memory_of([os.getpid()]).resident < 1e5


def test_an_exponent_tells_flat_from_linear() -> None:
    sizes = (1.0, 10.0, 100.0)
    flat = growth.Course("claim, ms", sizes, tuple(Spread.of([3.0]) for _ in sizes))
    linear = growth.Course("rows, ms", sizes, tuple(Spread.of([2 * size]) for size in sizes))
    nothing = growth.Course("none, ms", sizes, tuple(Spread.of([0.0]) for _ in sizes))
    assert flat.exponent == pytest.approx(0.0, abs=1e-9)
    assert linear.exponent == pytest.approx(1.0)
    assert math.isnan(nothing.exponent)
    sheet = growth.sheet(growth.PARTS[0], [flat, linear])
    assert sheet.rows[-2:] == (("exponent", "0.00", "1.00"), ("of the last two sizes", "0.00", "1.00"))
    assert "None grows faster" in sheet.note
    steep = growth.Course("square, ms", sizes, tuple(Spread.of([size**2]) for size in sizes))
    assert "Faster than the size grow: square, ms." in growth.sheet(growth.PARTS[0], [flat, steep]).note
    sizes = (*sizes, 1e3, 1e4, 1e5)
    late = growth.Course("late, ms", sizes, tuple(Spread.of([value]) for value in (1.0, 1.0, 1.0, 1.0, 1.0, 1e2)))
    assert late.exponent < growth.LINEAR
    assert "Faster than the size grow: late, ms." in growth.sheet(growth.PARTS[0], [late]).note


def test_the_ledger_is_asked_at_each_size_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "keep_to_cores", lambda: None)
    told = tmp_path / "told.json"
    found = growth.compare(["queue", "archive"], rounds=1, most=1000, json_file=told)
    assert [course.sizes for course in found["queue"]] == [(1, 10, 100, 1000)] * 2
    assert {course.cost for course in found["archive"]} >= {"enqueue, ms", "claim, ms", "complete, ms"}
    assert all(spread.p50 > 0 for courses in found.values() for course in courses for spread in course.spreads)
    assert len(json.loads(told.read_text("utf-8"))["queue"]) == 2
    growth.draw(growth.PARTS[2], found["queue"], tmp_path / "queue.png")
    assert (tmp_path / "queue.png").read_bytes().startswith(b"\x89PNG")


def test_eight_bundles_have_eight_names() -> None:
    assert [len(set(node_growth.bundles(number))) for number in growth.PARTS[1].sizes] == list(growth.PARTS[1].sizes)


def test_a_clock_counts_a_stage_within_another_as_the_outer_one() -> None:
    clock = stages.Clock()
    with clock.stage("outer"), clock.stage("inner"):
        time.sleep(0.01)
    assert set(clock.seconds) == {"outer"}
    assert clock.seconds["outer"] >= 0.01


def test_a_function_that_works_is_sampled_and_one_that_waits_is_not() -> None:
    with sampled() as samples:
        time.sleep(0.05)
        _work(0.3)
    told = samples.table(1)
    assert samples.number >= 10
    assert samples.below["tests/test_bench_speed.py:_work"] > 0.9 * samples.number
    assert samples.seconds == pytest.approx(0.3, rel=0.2)
    assert "tests/test_bench_speed.py:_work" in told


def _work(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        math.sqrt(2.0)


def test_the_machine_bounds_what_the_networks_need() -> None:
    bundle = load_bundle(REPOSITORY / "models" / "lung_fields")
    found = limits.limits_of([bundle, bundle])
    assert found.operations == pytest.approx(2 * limits.limits_of([bundle]).operations)
    assert found.shared <= found.operations
    for precision, peak in found.operations_per_second.items():
        assert found.inference_seconds(precision) == pytest.approx(found.shared / peak)


def test_timed_models_answer_as_untimed_ones() -> None:
    models = assemble([load_bundle(REPOSITORY / "models" / "lung_fields")], threads=1)
    clock, image = stages.Clock(), RenderedImage(chest(1, rows=300, columns=300).pixels)
    identity = ImageIdentity("1.2", "1.3", "1.4", View.PA)
    timed = stages.timed_models(models, clock).predict(image, identity)
    assert timed.measurements == models.predict(image, identity).measurements
    assert clock.seconds[stages.INFER] > 0


def test_the_plain_way_outlines_the_same_lungs_as_we_do() -> None:
    """Another way to the same answer, so that what is compared is the same work."""
    bundle = load_bundle(REPOSITORY / "models" / "lung_fields")
    pixels: FloatArray = chest(1, rows=600, columns=500).pixels
    picture = plain_way._picture(bundle.contract.input_size)(pixels)[None]
    masks = plain_way._outlines(plain_way._ask(bundle, picture)["logits"], 600, 500)
    found = assemble([bundle], threads=1).predict(RenderedImage(pixels), ImageIdentity("1.2", "1.3", "1.4", View.PA))
    for segment, mask in zip(found.segments, masks, strict=True):
        assert 2 * (segment.mask & mask).sum() / (segment.mask.sum() + mask.sum()) > 0.97


def test_of_the_plain_way_only_the_largest_part_is_kept() -> None:
    logits = torch.full((8, 8), -5.0)
    logits[:3, :3] = logits[6, 6] = 5.0
    assert np.argwhere(plain_way._largest(logits).numpy() > 0).max() == 2


@pytest.mark.node
def test_a_node_is_timed_beside_the_plain_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "keep_to_cores", lambda: None)
    monkeypatch.setattr(latency, "_WARMING", 0)
    told = tmp_path / "told.json"
    measured = latency.compare(1, 0.25, json_file=told, rows=420, columns=360, bundles=("lung_fields", "lung_opacity"))
    assert measured.alone["objects"].p50 <= measured.alone["report"].p50
    assert (measured.alone["flagged"].number, measured.loaded["flagged"].number) == (1, 2)
    assert measured.warm.p50 < measured.cold.p50
    assert json.loads(told.read_text("utf-8"))["machine"]["cores"] >= 1


def test_each_runtime_is_timed_in_one_run_and_the_one_that_answered_is_named(tmp_path: Path) -> None:
    found = runtimes.compare(2, json_file=tmp_path / "runtimes.json", bundles=("pixel_gate", "covid_appearance"))
    assert {(one.names, one.threads, one.asked) for one in found.timed} == {
        (("pixel_gate",), threads, asked) for threads in runtimes.THREADS for asked in runtimes.ASKED
    }
    by = {one.asked: one for one in found.timed if one.threads == 1}
    assert by[Runtime.TORCH].runs is Runtime.TORCH
    assert by[Runtime.OPENVINO_INT8].runs is Runtime.OPENVINO_INT8
    assert found.sum(1, Runtime.TORCH) == by[Runtime.TORCH].seconds.p50
    sheet = runtimes.sheets(found)[0]
    assert f"({by[Runtime.AUTO].runs})" in sheet.rows[0][-1]
    assert json.loads((tmp_path / "runtimes.json").read_text("utf-8"))["timed"][0]["seconds"]["number"] == 2
    asked = {(one.names, one.runtime) for one in found.batches}
    sizes = (1, 2, 4, 8)
    assert {(one.names, one.runtime, one.size) for one in found.batches} == {(*a, n) for a in asked for n in sizes}
    assert {runtime for _, runtime in asked} >= {Runtime.TORCH, Runtime.OPENVINO}
    assert runtimes.sheets(found)[-1].headings[1:] == ("1", "2", "4", "8")
