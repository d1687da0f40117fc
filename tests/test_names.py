"""What findings are called: in words, in one place, and as their codes are called where their keys do not tell."""

from __future__ import annotations

import re

import pytest

from dicom_sr.codes import finding_table
from models.names import NAMED, in_short, in_words, within_sentence
from orthanc_plugin.settings import REPOSITORY


@pytest.mark.parametrize("key", finding_table())
def test_no_name_is_made_of_a_key_that_nobody_would_say(key: str) -> None:
    for name in (in_words(key), in_short(key)):
        assert "_" not in name
        assert "Covid" not in name
        assert name[0].isupper()
    if key in NAMED:
        assert in_words(key) == finding_table()[key].finding.meaning


def test_the_appearances_have_a_name_and_a_short_form() -> None:
    assert in_words("covid_typical") == "Typical appearance for COVID-19 pneumonia"
    assert in_short("covid_typical") == "COVID-19: typical"
    assert within_sentence("covid_typical") == "typical appearance for COVID-19 pneumonia"
    assert (in_words("lung_opacity"), in_short("lung_opacity")) == ("Lung opacity", "Lung opacity")
    assert within_sentence("lung_opacity") == "lung opacity"
    assert set(NAMED) <= set(finding_table())


def test_the_viewer_makes_names_of_the_same_keys() -> None:
    """What it does not make of the key it takes from the code: the two agree by the test above."""
    script = (REPOSITORY / "orthanc_plugin" / "viewer" / "app-config" / "2-reports.js").read_text("utf-8")
    listed = re.search(r"const NAMED = \[(.*?)\];", script, re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"'(\w+)'", listed[1])) == NAMED
