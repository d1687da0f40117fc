"""The shipped criteria of the COVID-19 appearance, for tests."""

from __future__ import annotations

from collections.abc import Iterable

from models import appearance
from models.appearance import Appearance
from models.bundle import load_bundle
from models.findings import BoolMask, Finding
from models.opacities import LungFields
from orthanc_plugin.settings import REPOSITORY

BUNDLE = load_bundle(REPOSITORY / "models" / "covid_appearance")
IDENTITY = BUNDLE.identity
assert BUNDLE.contract.criteria is not None
CONTRACT = BUNDLE.contract.criteria


def derive(findings: Iterable[Finding], lungs: LungFields | None, mask: BoolMask | None = None) -> Appearance:
    """By these criteria."""
    return appearance.derive(findings, lungs, mask, contract=CONTRACT)
