"""All named inputs, in the order of ``docs/intake.md``."""

from __future__ import annotations

from functools import cache

from .case import Case
from .grays import gray_scale
from .headers import ages, body_parts, languages, views
from .objects import intents, modalities
from .pixels import contents, diseases, geometry, orientations, transfer_syntaxes
from .real import real_files, real_pictures
from .studies import studies

_GROUPS = (
    views, languages, modalities, intents, body_parts, orientations, gray_scale, geometry, transfer_syntaxes, ages,
    contents, diseases, studies, real_files, real_pictures,
)  # fmt: skip


@cache
def all_cases() -> tuple[Case, ...]:
    """Every case; what they are made of is computed when it is first asked for."""
    return tuple(case for group in _GROUPS for case in group().cases)
