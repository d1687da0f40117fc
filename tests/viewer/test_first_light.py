"""A person's way on the real node: log in, worklist, one click, and the viewer shows what the models found.

The README's picture of OHIF is made here; ``HILUM_SCREENSHOTS=docs`` writes it there.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from browser import Viewer
from playwright.sync_api import expect
from rich.console import Console
from running_node import Node

from dicom_sr.segmentation import label
from models.phantom import Pathology, chest
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.demo import real_radiograph, run_demo
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import Credentials
from orthanc_plugin.settings import REPOSITORY

pytestmark = [pytest.mark.node, pytest.mark.viewer]

Open = Callable[[str, Credentials], Viewer]


def keep(picture: Path, name: str) -> None:
    if folder := os.environ.get("HILUM_SCREENSHOTS"):
        shutil.copyfile(picture, REPOSITORY / folder / name)


def test_the_demo_fills_the_worklist(hilum_node: Node, chromium: Open) -> None:
    printed = StringIO()
    assert run_demo(hilum_node.settings, Console(file=printed, width=200), limit=0) == 0
    for text in (
        "Normal, PA: done",
        "Lateral (to be refused): not processed",
        "after the last C-STORE response",
        "/ohif/",
    ):
        assert text in printed.getvalue()
    with chromium(hilum_node.settings.http_url, hilum_node.credentials) as window:
        window.page.emulate_media(color_scheme="dark")
        window.page.goto(f"{hilum_node.settings.http_url}/hilum/?sort=-received")  # a node of many tests has many pages
        expect(window.page.locator("main")).to_contain_text("Hilum, Phantom 02")
        expect(window.page.locator("main")).to_contain_text("the view is not frontal ('lateral')")
        expect(window.page.locator("header")).to_contain_text("not a medical device")
        window.screenshot("worklist_demo")


@pytest.mark.cluster
def test_from_the_worklist_to_the_overlay(hilum_node: Node, chromium: Open) -> None:
    phantom = chest(7, pathologies=[Pathology("lung_opacity", right=True, size=1.0, height=0.6)])
    ds = modality.radiograph(
        phantom.pixels, Exposure(seed=uuid.uuid4().hex, patient_name="Hilum^First Light", patient_id="FIRST")
    )
    sent = list(modality.send([ds], "127.0.0.1", hilum_node.settings.dicom_port, hilum_node.settings.ae_title))
    assert all(outcome.accepted for outcome in sent)
    uid = str(ds.StudyInstanceUID)
    row = hilum_node.wait_for(uid)
    assert row["status"] == "done"
    with chromium(hilum_node.settings.http_url, hilum_node.credentials) as window:
        window.page.goto(f"{hilum_node.settings.http_url}/hilum/?sort=-received")  # a node of many tests has many pages
        listed = window.page.locator(f'[id="study-{uid}"]')
        expect(listed).to_contain_text("Hilum, First Light")
        expect(listed).to_contain_text("Done")
        listed.locator("a.open").click()
        window.settle()
        (viewport,) = window.viewports()
        assert viewport["sop_instance_uid"] == ds.SOPInstanceUID
        (segmentation,) = viewport["segmentations"]
        labels = {segment["label"]: segment for segment in segmentation["segments"]}
        for key in ("lung_right", "lung_left"):
            rows, columns = np.nonzero(phantom.masks[key])
            x, y = labels[label(key)]["centre"]
            assert abs(x - columns.mean()) < 40, "the segment lies over the lung that it outlines"
            assert abs(y - rows.mean()) < 60
        found = {f["key"]: f for f in row["findings"]}
        assert len(viewport["boxes"]) == sum(f["regions"] for f in found.values())
        assert all(box["locked"] and box["label"] for box in viewport["boxes"])
        assert window.foreign_requests() == []
        keep(window.screenshot("first_light"), "ohif.png")
        window.page.go_back()
        expect(window.page.locator(f'[id="study-{uid}"]')).to_be_visible()


def test_ohifs_study_list_shows_our_priority_beside_what_the_archive_holds_and_leads_back(
    hilum_node: Node, chromium: Open
) -> None:
    opacity = chest(7, pathologies=[Pathology("lung_opacity", right=True, size=1.0, height=0.6)])
    ward, uids = f"L{uuid.uuid4().hex[:8]}", {}
    for name, pixels, view in (("Opaque", opacity.pixels, "PA"), ("Sideways", chest(9).pixels, "LL")):
        ds = modality.radiograph(
            pixels, Exposure(seed=uuid.uuid4().hex, patient_name=f"{name}^{ward}", patient_id=ward, view=view)
        )
        list(modality.send([ds], "127.0.0.1", hilum_node.settings.dicom_port, hilum_node.settings.ae_title))
        uids[name] = str(ds.StudyInstanceUID)
    priority = {name: hilum_node.wait_for(uid)["priority"] for name, uid in uids.items()}
    assert priority["Sideways"] == "none"
    with chromium(hilum_node.settings.http_url, hilum_node.credentials) as window:
        page = window.page
        page.goto(f"{hilum_node.settings.http_url}/ohif/?mrn={ward}")
        opaque, sideways = (page.locator("tr", has_text=name) for name in ("Opaque", "Sideways"))
        expect(page.locator("th", has_text="AI priority")).to_be_visible(timeout=60_000)
        expect(opaque).to_contain_text(f"{priority['Opaque'].capitalize()}, unread")
        expect(sideways).to_contain_text("Not rated, unread")
        expect(opaque).to_contain_text("Chest radiograph")  # the description is the archive's
        window.screenshot("ohif_list")
        head = page.locator("th", has_text="AI priority").get_by_role("button").first
        for order in (["Opaque", "Sideways"], ["Sideways", "Opaque"]):
            head.click()
            expect(page.locator("tbody tr", has_text=ward).first).to_contain_text(order[0])
        field = page.get_by_role("textbox").nth(1)
        field.fill("not rated")
        expect(opaque).to_have_count(0)
        expect(sideways).to_be_visible()
        assert window.console == []
        page.get_by_role("link", name="Reading worklist").click()
        expect(page).to_have_title("Reading worklist - Hilum")
        window.open_study(uids["Opaque"])
        expect(page.locator("#hilum-priority")).to_have_text(re.compile(f"{priority['Opaque']}$", re.IGNORECASE))
        window.screenshot("ohif_priority")


@pytest.mark.cluster
def test_the_worklist_takes_in_a_new_study_without_a_reload(hilum_node: Node, chromium: Open) -> None:
    with chromium(hilum_node.settings.http_url, hilum_node.credentials) as window:
        window.page.goto(f"{hilum_node.settings.http_url}/hilum/?sort=-received")  # a node of many tests has many pages
        ds = modality.radiograph(chest(8).pixels, Exposure(seed=uuid.uuid4().hex, patient_name="Hilum^Late Comer"))
        list(modality.send([ds], "127.0.0.1", hilum_node.settings.dicom_port, hilum_node.settings.ae_title))
        row = window.page.locator(f'[id="study-{ds.StudyInstanceUID}"]')
        expect(row).to_contain_text("Done", timeout=30_000)
        expect(row).to_contain_text("Hilum, Late Comer")


@pytest.mark.shared
def test_boxes_that_the_models_drew_on_a_real_radiograph_are_shown_locked(
    hilum_node: Node, chromium: Open, shared_data: Path
) -> None:
    picture = shared_data / "nih_chestxray14" / "images" / "00000061_012.jpg"  # opacities on both sides (RSNA)
    ds = real_radiograph(picture, uuid.uuid4().hex, variant=2)
    list(modality.send([ds], "127.0.0.1", hilum_node.settings.dicom_port, hilum_node.settings.ae_title))
    row = hilum_node.wait_for(str(ds.StudyInstanceUID))
    (opacity,) = (f for f in row["findings"] if f["key"] == "lung_opacity")
    assert (opacity["state"], row["priority"]) == ("present", "urgent")
    assert opacity["regions"] >= 1
    with chromium(hilum_node.settings.http_url, hilum_node.credentials) as window:
        window.open_study(str(ds.StudyInstanceUID))
        (viewport,) = window.viewports()
        assert len(viewport["boxes"]) == opacity["regions"]
        for box in viewport["boxes"]:
            assert box["locked"]
            assert box["visible"]
            assert box["label"].startswith("Lung opacity")
            assert all(0 <= x <= 512 and 0 <= y <= 512 for x, y, *_ in box["corners"])
        assert len(viewport["segmentations"]) == 1
        window.screenshot("real_radiograph")
