"""The words and codes by which headers say what an image shows: standard ones, retired ones, and those met in the wild.

The rule: vocabulary, and how texts are made comparable, alone; what it decides is said in ``models.selection``.
"""

from __future__ import annotations

import re
import unicodedata

from pydicom.uid import UID

from models.findings import View

CR = UID("1.2.840.10008.5.1.4.1.1.1")
DX_FOR_PRESENTATION = UID("1.2.840.10008.5.1.4.1.1.1.1")
DX_FOR_PROCESSING = UID("1.2.840.10008.5.1.4.1.1.1.1.1")
SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")
READABLE_SOP_CLASSES = frozenset({CR, DX_FOR_PRESENTATION, SECONDARY_CAPTURE})
RADIOGRAPH_MODALITIES = frozenset({"CR", "DX", "RG", "DR"})
UNSAID_MODALITIES = frozenset({"", "OT", "SC", "XC"})  # they name no other technique

# Image Type values 3 and on by which vendors mark pictures that are not the radiograph itself (PS3.3 C.7.6.1.1.2).
POST_PROCESSED = frozenset(
    {"BONE_SUPPRESSED", "SUBTRACTED", "SUBTRACTION", "EDGE_ENHANCED", "SOFT_TISSUE", "BONE", "ENHANCED", "CAD",
     "REFORMATTED", "TOMOSYNTHESIS"}
)  # fmt: skip
# CID 4010 (PS3.16) and the retired SNOMED RT values that older modalities still send.
VIEW_CODES = {
    "272479007": View.PA, "R-40888": View.PA, "R-10214": View.PA,
    "399348003": View.AP, "R-10206": View.AP,
    "399033003": View.FRONTAL, "R-10202": View.FRONTAL,
}  # fmt: skip
OTHER_VIEW_CODES = frozenset(
    {"399067008", "399173006", "399198007", "399182000", "399312000", "399059000", "399160007", "399135007",
     "399184004", "399006002", "399356000", "399236003", "399038007", "399061009", "399260004", "399352003",
     "R-10236", "R-10232", "R-10228", "R-102CD", "R-10204", "R-10208", "R-10216", "R-10220", "R-10238", "R-10212",
     "R-40985", "R-10234", "R-10210", "R-10241", "R-102C1", "R-10224"}
)  # fmt: skip
OTHER_POSITIONS = frozenset({"rl", "lld", "rld", "llo", "rlo", "rao", "lao", "rpo", "lpo", "lord"})
FRONTAL_SIDES = {"pa": View.PA, "posteroanterior": View.PA, "ap": View.AP, "anteroposterior": View.AP}
FRONTAL_WORDS = re.compile(r"\b(frontal|frente|face|facing|postero ?anterior|antero ?posterior|p\.?a\.?|a\.?p\.?)\b")
LATERAL_WORDS = re.compile(
    r"\b(lat|llat|rlat|ll|lateral|laterale|laterolaterale|seitlich|seitl|perfil|profil|profilo|dwars|"
    r"boczn[ey])\b"
)
# Decubito dorsal and supino are Portuguese, Spanish and French for a patient who lies on the back: a frontal view.
ODD_WORDS = re.compile(r"\b(obli[cq]u[aeo]|obl|schrae?g\w*|lordotic|decub|decubitus(?! dorsal))\b")
CHEST_WORDS = re.compile(
    r"\b(chest|thorax|torax|torace|pecho|lung|lungs|lunge|thor|t rax|cxr|rtg klp|klatka|poumon|poumons|borstkas)\b"
)
OTHER_BODY_WORDS = re.compile(
    r"\b(hip|knee|hand|foot|ankle|wrist|elbow|shoulder|pelvis|skull|extremity|femur|tibia|humerus|forearm|"
    r"spine|cspine|lspine|tspine|finger|toe|leg|arm|breast|mammo|dental|jaw|abdomen|abdominal|huefte|hufte|knie|"
    r"cadera|rodilla|hanche|genou|sinus|clavicle|scapula|sternum|ribs?)\b"
)
BEDSIDE_WORDS = re.compile(
    r"\b(portable|portatil|port|mobile|bedside|supine|letto|lit|bett|cama|leito|liegend|liegen|liggend|"
    r"decubito (supino|dorsal)|decubitus dorsal)\b"
)
# What vendors call their own pictures of an exposure where Image Type does not say it.
PROCESSED_WORDS = re.compile(
    r"\b((bone|rib) (suppress|subtract)\w*|soft tissue|dual energy|edge enhanced|tomosynthesis)\b"
)
DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription", "StudyDescription")


def plain_code(text: str) -> str:
    """A code string as it may be repeated to people: upper case letters and digits, cut at 16 characters."""
    return re.sub(r"[^A-Z0-9_ ]", "", text.upper())[:16]


def plain(text: str) -> str:
    """Lower case, accents stripped, anything but letters and full stops turned into spaces."""
    decomposed = unicodedata.normalize("NFKD", text.lower())
    return re.sub(r"[^a-z.]+", " ", "".join(c for c in decomposed if not unicodedata.combining(c)))
