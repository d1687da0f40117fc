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

from models.findings import (
    LUNGS,
    MIDLINE,
    OPACITIES,
    PROBABILITY,
    SHARE,
    Caution,
    FindingState,
    Laterality,
    Priority,
    Sense,
)

PRIVATE_SCHEME = "99HILUM"
PRIVATE_SCHEME_VERSION = "1"
# Every coding scheme that our objects use, with its UID (PS3.16 8, table 8-1) and who answers for it.
CODING_SCHEMES: dict[str, tuple[str, str, str]] = {
    "DCM": ("1.2.840.10008.2.16.4", "DICOM Controlled Terminology", "NEMA"),
    "SCT": ("2.16.840.1.113883.6.96", "SNOMED CT", "SNOMED International"),
    "UCUM": ("2.16.840.1.113883.6.8", "Unified Code for Units of Measure", "Regenstrief Institute"),
    "UMLS": ("2.16.840.1.113883.6.86", "UMLS codes as CUIs", "National Library of Medicine"),
    "LN": ("2.16.840.1.113883.6.1", "Logical Observation Identifier Names and Codes", "Regenstrief Institute"),
    "RADLEX": ("2.16.840.1.113883.6.256", "RadLex", "Radiological Society of North America"),
    "RFC5646": ("2.16.840.1.113883.6.316", "Tags for Identifying Languages", "IETF"),
    PRIVATE_SCHEME: ("2.25.279895187069645183311181609580848582685", "Hilum private codes", "Hilum"),
}

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
SOURCE_IMAGE_FOR_SEGMENTATION = Code("121233", "DCM", "Source image for segmentation")
PIXEL_DATA_ROWS = Code("110910", "DCM", "Pixel Data Rows")
PIXEL_DATA_COLUMNS = Code("110911", "DCM", "Pixel Data Columns")
AREA = Code("42798000", "SCT", "Area")
DIAMETER = Code("81827009", "SCT", "Diameter")
REPLACED_REPORT = Code("121360", "DCM", "Replaced report")
THRESHOLD = Code("THRESHOLD", PRIVATE_SCHEME, "Probability from which the finding is called present")
REASON = Code("REASON", PRIVATE_SCHEME, "Reason")
CAUTION = Code("CAUTION", PRIVATE_SCHEME, "Caution")
ROUTE = Code("ROUTE", PRIVATE_SCHEME, "Rule of the site that left models out")
NOT_READ = Code("NOTREAD", PRIVATE_SCHEME, "Image not read")
REFERENCED_SEGMENTATION_FRAME = Code("121214", "DCM", "Referenced Segmentation Frame")
PERCENT = Code("%", "UCUM", "Percent")
NO_UNITS = Code("1", "UCUM", "no units")
PIXELS = Code("{pixels}", "UCUM", "pixels")
SQUARE_MILLIMETER = Code("mm2", "UCUM", "square millimeter")
MILLIMETER = Code("mm", "UCUM", "millimeter")
HEART = Code("80891009", "SCT", "Heart")
CHEST = Code("816094009", "SCT", "Chest")
MEASUREMENTS = {"cardiothoracic_ratio": Code("CTR", PRIVATE_SCHEME, "Cardiothoracic ratio")}

# CID 240, and what CID 240 does not have
STATES = {
    FindingState.PRESENT: Code("52101004", "SCT", "Present"),
    FindingState.ABSENT: Code("272519000", "SCT", "Absent"),
    FindingState.UNDETERMINED: Code("373068000", "SCT", "Undetermined"),
    FindingState.NOT_EVALUATED: Code("NOTEVALUATED", PRIVATE_SCHEME, "Not evaluated"),
}
FAILED = Code("FAILED", PRIVATE_SCHEME, "Analysis failed")
MODEL_RUN = Code("MODELRUN", PRIVATE_SCHEME, "Model run")
SUCCEEDED = Code("SUCCEEDED", PRIVATE_SCHEME, "Succeeded")
# Why a finding was not evaluated, or a model gave no answer.
REASONS = {
    "evidence": Code("EVIDENCE", PRIVATE_SCHEME, "The model's evidence is too weak for it"),
    "model_failed": Code("MODELFAILED", PRIVATE_SCHEME, "The model failed"),
    "view": Code("VIEW", PRIVATE_SCHEME, "Not evaluated on this view"),
    "refused": Code("REFUSED", PRIVATE_SCHEME, "The image is no longer read; an earlier result is withdrawn"),
    "no_model": Code("NOMODEL", PRIVATE_SCHEME, "No active model looks for it"),
    "routing": Code("ROUTING", PRIVATE_SCHEME, "A rule of the site left its model out"),
    "no_lungs": Code("NOLUNGS", PRIVATE_SCHEME, "The lungs were not found"),
    "no_regions": Code("NOREGIONS", PRIVATE_SCHEME, "The opacities could not be located"),
    "no_outline": Code("NOOUTLINE", PRIVATE_SCHEME, "The opacities are known as boxes, not as outlines"),
    "findings_disagree": Code("DISAGREE", PRIVATE_SCHEME, "The findings contradict each other"),
    "opacity_undetermined": Code("OPACITYOPEN", PRIVATE_SCHEME, "Opacity cannot be determined"),
}
# Derived findings (models.appearance): each criterion, what became of it, and the numbers that it rests on.
CRITERIA = {
    key: Code(value, PRIVATE_SCHEME, meaning)
    for key, value, meaning in (
        ("multifocal", "CRITMULTIFOCAL", "Criterion: several opacities"),
        ("bilateral", "CRITBILATERAL", "Criterion: opacities in both lungs"),
        ("peripheral", "CRITPERIPHERAL", "Criterion: share of peripheral opacities"),
        ("lower_lung", "CRITLOWERLUNG", "Criterion: share of opacities in the lower half of the lungs"),
        ("rounded", "CRITROUNDED", "Criterion: rounded opacities"),
        ("unilateral", "CRITUNILATERAL", "Criterion: opacities in one lung only"),
        ("central", "CRITCENTRAL", "Criterion: share of central opacities"),
        ("upper_lung", "CRITUPPERLUNG", "Criterion: share of opacities in the upper half of the lungs"),
        ("pneumothorax", "CRITPNEUMOTHORAX", "Criterion: pneumothorax"),
        ("effusion", "CRITEFFUSION", "Criterion: pleural effusion"),
        ("edema", "CRITEDEMA", "Criterion: pulmonary edema"),
        ("diffuse_nodules", "CRITNODULES", "Criterion: diffuse tiny nodules"),
        ("cavity", "CRITCAVITY", "Criterion: cavity"),
        ("solitary_nodule_or_mass", "CRITSOLITARY", "Criterion: solitary nodule or mass"),
        ("lobar_consolidation", "CRITLOBAR", "Criterion: lobar consolidation"),
        ("no_opacity", "CRITNOOPACITY", "Criterion: no opacity"),
        ("no_other_opacity", "CRITNOOTHER", "Criterion: neither consolidation nor infiltrate nor pneumonia"),
    )
}
# Not the codes of CID 240, so that nobody takes a criterion for a finding.
OUTCOMES = {
    FindingState.PRESENT: Code("CRITMET", PRIVATE_SCHEME, "Criterion met"),
    FindingState.ABSENT: Code("CRITNOTMET", PRIVATE_SCHEME, "Criterion not met"),
    FindingState.UNDETERMINED: Code("CRITOPEN", PRIVATE_SCHEME, "Criterion cannot be determined"),
    FindingState.NOT_EVALUATED: Code("CRITNOTEVALUATED", PRIVATE_SCHEME, "Criterion not evaluated"),
}
CRITERION_REASONS = REASONS | {
    "no_opacity": Code("NOOPACITY", PRIVATE_SCHEME, "There is no opacity"),
    "not_solitary": Code("NOTSOLITARY", PRIVATE_SCHEME, "There is more than one"),
}
CRITERION_VALUE = Code("CRITVALUE", PRIVATE_SCHEME, "Value that the criterion is judged by")
SENSES = {
    Sense.AT_LEAST: Code("ATLEAST", PRIVATE_SCHEME, "Met by a value of at least"),
    Sense.MORE_THAN: Code("MORETHAN", PRIVATE_SCHEME, "Met by a value of more than"),
    Sense.AT_MOST: Code("ATMOST", PRIVATE_SCHEME, "Met by a value of at most"),
    Sense.LESS_THAN: Code("LESSTHAN", PRIVATE_SCHEME, "Met by a value of less than"),
}
CRITERION_UNITS = {
    SHARE: NO_UNITS,
    PROBABILITY: Code(PROBABILITY, "UCUM", "probability"),
    OPACITIES: Code(OPACITIES, "UCUM", "opacities"),
    LUNGS: Code(LUNGS, "UCUM", "lungs"),
}
CAUTIONS = {
    Caution.AP_VIEW: Code("APVIEW", PRIVATE_SCHEME, "AP view: the heart looks larger"),
    Caution.BEDSIDE: Code("BEDSIDE", PRIVATE_SCHEME, "Taken at the bedside"),
    Caution.AGE_UNKNOWN: Code("AGEUNKNOWN", PRIVATE_SCHEME, "Age unknown"),
    Caution.AGE_OUTSIDE_VALIDATION: Code("AGEOUTSIDE", PRIVATE_SCHEME, "Younger than the models were validated for"),
    Caution.VIEW_UNKNOWN: Code("VIEWUNKNOWN", PRIVATE_SCHEME, "PA or AP unknown: the heart may look larger"),
    Caution.VIEW_FROM_PIXELS: Code("VIEWFROMPIXELS", PRIVATE_SCHEME, "View told by the pixels, not by the header"),
    Caution.BODY_PART_DOUBTFUL: Code("BODYPARTDOUBT", PRIVATE_SCHEME, "The header names another body part"),
    Caution.PIXELS_DOUBTFUL: Code("PIXELSDOUBT", PRIVATE_SCHEME, "Perhaps not an upright frontal chest of an adult"),
    Caution.GATE_FAILED: Code("GATEFAILED", PRIVATE_SCHEME, "The pixels were not checked"),
    Caution.COLLIMATED: Code("COLLIMATED", PRIVATE_SCHEME, "Narrow field of view"),
    Caution.LUNGS_CUT_OFF: Code("LUNGSCUTOFF", PRIVATE_SCHEME, "A lung reaches the edge of the picture"),
    Caution.CLIPPED_GRAYS: Code("CLIPPEDGRAYS", PRIVATE_SCHEME, "Gray values cut off"),
    Caution.LOW_CONTRAST: Code("LOWCONTRAST", PRIVATE_SCHEME, "Hardly any contrast"),
    Caution.EXTREME_EXPOSURE: Code("EXTREMEEXPOSURE", PRIVATE_SCHEME, "Far from the target exposure"),
}
# Why an image was not read (models.refusal.Refusal).
UNREAD = {
    key: Code(value, PRIVATE_SCHEME, meaning)
    for key, value, meaning in (
        ("modality", "MODALITY", "Not a projection radiograph"),
        ("unreadable_header", "UNREADABLEHEADER", "Header invalid or incomplete"),
        ("intent", "INTENT", "For processing, localizer or post-processed copy"),
        ("multi_frame", "MULTIFRAME", "More than one frame"),
        ("view", "OTHERVIEW", "Lateral, oblique or other view"),
        ("body_part", "OTHERBODYPART", "Another body part"),
        ("age", "BELOWMINIMUMAGE", "Younger than the minimum age, or looks it"),
        ("unreadable_pixels", "UNREADABLEPIXELS", "Pixels missing or not decodable"),
        ("quality", "QUALITY", "Too few pixels or gray levels"),
        ("routing", "NOTROUTED", "Not read, by a rule of the site"),
        ("view_unknown", "VIEWNOTCHECKED", "View unknown, pixels not checked"),
        ("pixel_gate", "PIXELGATE", "View unknown, pixels show no frontal chest"),
        ("view_conflict", "VIEWCONFLICT", "Header says frontal, pixels show something else"),
        ("orientation", "ORIENTATION", "Turned, mirrored or upside down"),
        ("inverted", "INVERTED", "Gray scale inverted"),
        ("lungs_not_found", "LUNGSNOTFOUND", "No plausible pair of lungs"),
        ("copy", "COPY", "Same exposure as an image that was read"),
    )
}
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
    Priority.NONE: Code("NOPRIORITY", PRIVATE_SCHEME, "No opinion"),
}
# CID 6047, by (every model answered, something is present)
RUN_SUMMARIES = {
    (True, True): Code("111242", "DCM", "All algorithms succeeded; with findings"),
    (True, False): Code("111241", "DCM", "All algorithms succeeded; without findings"),
    (False, True): Code("111244", "DCM", "Not all algorithms succeeded; with findings"),
    (False, False): Code("111243", "DCM", "Not all algorithms succeeded; without findings"),
}
NO_ALGORITHM_SUCCEEDED = Code("111245", "DCM", "No algorithms succeeded; without findings")


# How the keys of paired structures end.
_SIDE_OF_KEY = {"_right": Laterality.RIGHT, "_left": Laterality.LEFT}


def side_of(key: str) -> Laterality | None:
    """The side that the key of a structure names, e.g. right for ``lung_right``."""
    return next((side for ending, side in _SIDE_OF_KEY.items() if key.endswith(ending)), None)


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
                row["key"] not in MIDLINE,
            )
            for row in csv.DictReader(file)
        }


def _code(text: str) -> Code:
    return Code(*text.split("^"))
