"""How our own results are told from a modality's images. Standard library only: Orthanc's process imports it."""

MANUFACTURER = "Hilum"
# Modality (0008,0060) of everything that we ever store.
RESULT_MODALITIES = frozenset({"SR", "SEG", "PR", "KO", "OT", "DOC"})


def is_own_result(modality: str, manufacturer: str) -> bool:
    """Whether a series is ours, from its Modality and Manufacturer."""
    return manufacturer == MANUFACTURER and modality in RESULT_MODALITIES
