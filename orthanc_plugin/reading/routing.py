"""Which models read an image: the site's rules (``integration.Route``), by where the image came from and its header.

The rule: the first rule that fits decides, and without one every active model reads. A rule that leaves models out is
named in the result, and one that leaves no model that finds anything keeps the image from being read.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from pydicom import Dataset
from pydicom.multival import MultiValue

from models.inference import Models
from models.intake import NotTakenIn
from models.refusal import Evidence, Refusal
from orthanc_plugin.integration import Route

RULE = "routes"  # the source of the evidence
_ATTRIBUTES = {
    "study_description": "StudyDescription",
    "series_description": "SeriesDescription",
    "body_part": "BodyPartExamined",
    "station_name": "StationName",
}


def route_of(routes: Sequence[Route], header: Dataset, calling_ae_title: str) -> Route | None:
    """The rule for an image; None when none fits."""
    return next((route for route in routes if _fits(route, header, calling_ae_title)), None)


def models_for(route: Route | None, models: Models, evidence: tuple[Evidence, ...]) -> Models:
    """The models that a rule has read an image.

    Raises
    ------
    NotTakenIn
        ``routing`` when none is left that finds anything.
    """
    if route is None:
        return models
    chosen = models.only(route.bundles, route.name)
    if not chosen.bundles:
        rule = Evidence(RULE, route.name)
        raise NotTakenIn(Refusal.ROUTING, f"not read, by the site's rule {route.name}", (*evidence, rule))
    return chosen


def _fits(route: Route, header: Dataset, calling_ae_title: str) -> bool:
    """Whether each condition that the rule has holds; of several patterns one."""
    if route.calling_ae_titles and not _is_one_of([calling_ae_title], route.calling_ae_titles):
        return False
    for name, keyword in _ATTRIBUTES.items():
        patterns: tuple[str, ...] = getattr(route, name)
        if patterns and not _is_one_of(_values(header, keyword), patterns):
            return False
    return True


def _is_one_of(values: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a value is as a pattern says (``*``, ``?``, ``[...]``), without case; what is missing is as none."""
    told = [value.strip().casefold() for value in values if value.strip()]
    return any(fnmatchcase(value, pattern.casefold()) for value in told for pattern in patterns)


def _values(header: Dataset, keyword: str) -> list[str]:
    value = header.get(keyword)
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, MultiValue | list) else [str(value)]
