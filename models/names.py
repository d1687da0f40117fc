"""What findings, structures and measurements are called on screens and in labels.

The rule: a key is never shown to a reader; where its words are not what a radiologist would say, its name stands here,
and is that of its code (``dicom_sr/codes.csv``). The Orthanc process loads this: the standard library alone.
"""

from __future__ import annotations

# Name, and a short form for lists.
_NAMES = {
    "covid_typical": ("Typical appearance for COVID-19 pneumonia", "COVID-19: typical"),
    "covid_indeterminate": ("Indeterminate appearance for COVID-19 pneumonia", "COVID-19: indeterminate"),
    "covid_atypical": ("Atypical appearance for COVID-19 pneumonia", "COVID-19: atypical"),
    "covid_negative": ("Negative for pneumonia", "COVID-19: negative"),
    "pleural_other": ("Disorder of pleura", "Disorder of pleura"),
    "tuberculosis": ("Tuberculosis suspected", "Tuberculosis suspected"),
}
# How a network computed (``models.findings.Precision``); float32 goes without saying.
_PRECISIONS = {"float32": "", "bfloat16": "in bfloat16", "int8": "in 8-bit integers"}
# Keys of which the words do not make the name.
NAMED = frozenset(_NAMES)


def in_words(key: str) -> str:
    """The name of a finding, a structure or a measurement: ``Lung opacity``."""
    return _NAMES[key][0] if key in _NAMES else key.replace("_", " ").capitalize()


def in_short(key: str) -> str:
    """The same for a list of many: ``COVID-19: typical``."""
    return _NAMES[key][1] if key in _NAMES else in_words(key)


def how_precisely(precision: str) -> str:
    """In which numbers a model answered: ``in 8-bit integers``; empty for float32."""
    return _PRECISIONS.get(precision, f"in {precision}")


def within_sentence(key: str) -> str:
    """The same after other words: ``lung opacity``."""
    name = in_words(key)
    return name[0].lower() + name[1:]
