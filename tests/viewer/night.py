"""A night on the worklist, written by hand: computed radiographs of patients that nobody is, in every state."""

from __future__ import annotations

import time
from io import BytesIO

from page_server import Pages, add_study, finding
from PIL import Image

from dicom_sr.overlay_picture import Marks, paint
from models.phantom import Pathology, chest
from models.rendering import RenderedImage
from orthanc_plugin.ledger import marks
from orthanc_plugin.ledger.tasks import TaskStatus
from orthanc_plugin.reading.thumbnail import LONGEST

UID = "1.2.840.99.7."


def picture(seed: int, *pathologies: Pathology) -> bytes:
    """A computed radiograph in small, with the true outlines of what is wrong with it, as the worker paints those."""
    phantom = chest(seed, rows=512, columns=512, pathologies=pathologies)
    drawn = Marks(512, 512, masks=tuple(phantom.masks[p.kind] for p in pathologies))
    painted = paint(RenderedImage(phantom.pixels).preview(LONGEST), (), longest=LONGEST, caption=(), marks=drawn)
    content = BytesIO()
    Image.fromarray(painted).save(content, "JPEG", quality=80)
    return content.getvalue()


def fill(pages: Pages) -> None:
    """The latest first in each line; patients are named after nobody."""
    pneumothorax = Pathology("pneumothorax", right=True, size=0.8)
    opacity, effusion = Pathology("lung_opacity", right=False, size=0.8), Pathology("effusion", right=True, size=0.7)
    add_study(
        pages, f"{UID}101", "critical", "Pneumothorax 91 %, right", finding("pneumothorax", "present", 0.91, "right"),
        finding("effusion", "undetermined", 0.41), minutes_ago=6, patient_name="Example^Ada", patient_age="034Y",
        cautions=("ap_view", "bedside"), picture=picture(4, pneumothorax), study_description="Chest AP, bedside",
    )  # fmt: skip
    add_study(
        pages, f"{UID}102", "critical", "Pneumothorax 77 %, left", finding("pneumothorax", "present", 0.77, "left"),
        minutes_ago=11, patient_name="Sample^Bruno", patient_sex="M", patient_age="061Y",
        picture=picture(12, Pathology("pneumothorax", right=False, size=0.7)),
    )  # fmt: skip
    add_study(
        pages, f"{UID}103", "urgent", "Lung opacity 87 %, left", finding("lung_opacity", "present", 0.87, "left"),
        finding("consolidation", "present", 0.71, "left"), minutes_ago=19, patient_name="Muster^Clara",
        patient_age="072Y", picture=picture(3, opacity),
    )  # fmt: skip
    add_study(
        pages, f"{UID}104", "urgent", "Pleural effusion 82 %, right", finding("effusion", "present", 0.82, "right"),
        minutes_ago=31, patient_name="Specimen^Dov", patient_sex="M", patient_age="080Y", picture=picture(21, effusion),
    )  # fmt: skip
    add_study(
        pages, f"{UID}105", "routine", "Nothing called present, 1 undetermined", finding("edema", "undetermined", 0.4),
        minutes_ago=265, patient_name="Phantom^Elin", patient_age="045Y", picture=picture(30),
    )  # fmt: skip
    add_study(pages, f"{UID}106", minutes_ago=48, patient_name="Template^Finn", patient_sex="M", picture=picture(31))
    add_study(
        pages, f"{UID}107", "none", status=TaskStatus.NOT_PROCESSED, minutes_ago=52, patient_name="Probe^Gita",
        study_description="Chest lateral",
    )  # fmt: skip
    add_study(pages, f"{UID}108", "none", status=TaskStatus.QUARANTINED, minutes_ago=60, patient_name="Dummy^Hugo")
    add_study(pages, f"{UID}109", minutes_ago=90, patient_name="Made-up^Ida", picture=picture(33))
    add_study(pages, f"{UID}110", "none", status=TaskStatus.RUNNING, minutes_ago=0.4, patient_name="Arrival^Jo")
    with pages.ledger.write() as db:
        marks.claim(db, f"{UID}102", "ben", now=time.time(), seconds=900)
        marks.mark_read(db, f"{UID}109", "ben", now=time.time() - 240)
