"""Coded concepts: the table of findings (``codes.csv``) and the fixed concepts of the templates.

The rule: a code stands here only if it was verified against a published source; what has no verified code gets a
private one (coding scheme designator 99HILUM), never an invented SNOMED CT identifier.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydicom.sr.coding import Code

from models.findings import FindingState, Laterality, Priority

PRIVATE_SCHEME = "99HILUM"

# Template structure (PS3.16 TID 1500, 1501, 1600)
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
IMAGING_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")
IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
MODALITY = Code("121139", "DCM", "Modality")
IMAGE_VIEW = Code("111031", "DCM", "Image View")
TRACKING_IDENTIFIER = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UNIQUE_IDENTIFIER = Code("112040", "DCM", "Tracking Unique Identifier")
# Context (TID 1204, 1001, 1004)
LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
ENGLISH = Code("en", "RFC5646", "English")
PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure Reported")
PLAIN_CHEST_RADIOGRAPHY = Code("399208008", "SCT", "Plain chest X-ray")
OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
DEVICE = Code("121007", "DCM", "Device")
DEVICE_OBSERVER_UID = Code("121012", "DCM", "Device Observer UID")
DEVICE_OBSERVER_NAME = Code("121013", "DCM", "Device Observer Name")
DEVICE_OBSERVER_MANUFACTURER = Code("121014", "DCM", "Device Observer Manufacturer")
DEVICE_OBSERVER_MODEL_NAME = Code("121015", "DCM", "Device Observer Model Name")
# Algorithm (TID 4019)
ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
ALGORITHM_PARAMETERS = Code("111002", "DCM", "Algorithm Parameters")
ALGORITHM_MANUFACTURER = Code("122405", "DCM", "Algorithm Manufacturer")
AI_FAMILY = Code("123110", "DCM", "Artificial Intelligence")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
# Content
FINDING = Code("121071", "DCM", "Finding")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
LATERALITY = Code("272741003", "SCT", "Laterality")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
IMAGE_REGION = Code("111030", "DCM", "Image Region")
COMMENT = Code("121106", "DCM", "Comment")
IMPRESSION = Code("121073", "DCM", "Impression")
RUN_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
PRIORITY = Code("260870009", "SCT", "Priority")
SOURCE_IMAGE = Code("260753009", "SCT", "Source")
SOURCE_OF_MEASUREMENT = Code("121112", "DCM", "Source of Measurement")
THRESHOLD = Code("THRESHOLD", PRIVATE_SCHEME, "Probability from which the finding is called present")
REASON = Code("REASON", PRIVATE_SCHEME, "Reason")
CAUTION = Code("CAUTION", PRIVATE_SCHEME, "Caution")
REFERENCED_SEGMENT = Code("121191", "DCM", "Referenced Segment")
PERCENT = Code("%", "UCUM", "Percent")
NO_UNITS = Code("1", "UCUM", "no units")
MEASUREMENTS = {"cardiothoracic_ratio": Code("CTR", PRIVATE_SCHEME, "Cardiothoracic ratio")}

# CID 240, and what CID 240 does not have
STATES = {
    FindingState.PRESENT: Code("52101004", "SCT", "Present"),
    FindingState.ABSENT: Code("272519000", "SCT", "Absent"),
    FindingState.UNDETERMINED: Code("373068000", "SCT", "Undetermined"),
    FindingState.NOT_EVALUATED: Code("NOTEVALUATED", PRIVATE_SCHEME, "Not evaluated"),
}
FAILED = Code("FAILED", PRIVATE_SCHEME, "Analysis failed")
# CID 244
SIDES = {
    Laterality.RIGHT: Code("24028007", "SCT", "Right"),
    Laterality.LEFT: Code("7771000", "SCT", "Left"),
    Laterality.BILATERAL: Code("51440002", "SCT", "Right and left"),
}
# CID 7035; what is read in its turn has no ACR category
PRIORITIES = {
    Priority.CRITICAL: Code("RID49480", "RADLEX", "ACR Category 1 Actionable Finding"),
    Priority.URGENT: Code("RID49481", "RADLEX", "ACR Category 2 Actionable Finding"),
    Priority.ROUTINE: Code("ROUTINE", PRIVATE_SCHEME, "Read in its turn"),
}
# CID 6047, by (every model answered, something is present)
RUN_SUMMARIES = {
    (True, True): Code("111242", "DCM", "All algorithms succeeded; with findings"),
    (True, False): Code("111241", "DCM", "All algorithms succeeded; without findings"),
    (False, True): Code("111244", "DCM", "Not all algorithms succeeded; with findings"),
    (False, False): Code("111243", "DCM", "Not all algorithms succeeded; without findings"),
}
NO_ALGORITHM_SUCCEEDED = Code("111245", "DCM", "No algorithms succeeded; without findings")


@dataclass(frozen=True)
class FindingCodes:
    """How one finding or structure is coded.

    Parameters
    ----------
    site
        Finding Site, without side.
    category, type
        Segmented Property Category and Type, for a segment of it; None where it cannot be outlined.
    paired
        Whether its site has a side.
    """

    finding: Code
    site: Code
    category: Code | None
    type: Code | None
    paired: bool


def finding_codes(key: str) -> FindingCodes:
    """The codes of a finding or structure.

    Raises
    ------
    KeyError
        When the table does not know the key: give it a row in ``codes.csv``.
    """
    return finding_table()[key]


@cache
def finding_table() -> dict[str, FindingCodes]:
    """The whole of ``codes.csv`` by key."""
    with (Path(__file__).parent / "codes.csv").open(encoding="utf-8", newline="") as file:
        return {
            row["key"]: FindingCodes(
                Code(row["value"], row["scheme"], row["meaning"]),
                _code(row["site"]),
                _code(row["category"]) if row["category"] else None,
                _code(row["type"]) if row["type"] else None,
                row["paired"] == "yes",
            )
            for row in csv.DictReader(file)
        }


def _code(text: str) -> Code:
    return Code(*text.split("^"))
