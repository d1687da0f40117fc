"""How our own results are told from a modality's images. Standard library only: Orthanc's process imports it."""

MANUFACTURER = "Hilum"
# Manufacturer's Model Name: with it our documents are told from those of a maker who bears our name.
MODEL_NAME = "Hilum"
# Modality (0008,0060) of everything that we ever store.
RESULT_MODALITIES = frozenset({"SR", "SEG", "PR", "KO", "OT", "DOC"})

# Objects that accompany images: they are never read, and storing them is no reason to read a study again.
ACCOMPANYING_MODALITIES = frozenset(
    {"SR", "SEG", "PR", "KO", "DOC", "REG", "FID", "AU", "RTSTRUCT", "PLAN", "RWV", "SMR"}
)


def is_own_result(modality: str, manufacturer: str, model_name: str = MODEL_NAME) -> bool:
    """Whether something is ours, from its Modality, Manufacturer and Manufacturer's Model Name.

    Without the model's name another maker who bears our name passes for us. Only where the answer would leave a picture
    unread does it have to be known: of all that we store, only a heat map is of a modality that is looked at.
    """
    return modality in RESULT_MODALITIES and (manufacturer, model_name) == (MANUFACTURER, MODEL_NAME)
