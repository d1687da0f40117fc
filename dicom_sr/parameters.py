"""What tells one run of an algorithm from another of its name and version: weights, contract and precision, as text.

The rule: float32, in which a network is trained, goes without saying, so a result that names no precision is of it.

::

    weights sha256:DIGEST       Algorithm Parameters of the report (PS3.16 TID 4019 row 3), once for each run
    config sha256:DIGEST
    precision=int8              also in the Segmentation (PS3.3 Table 10-19)
"""

from __future__ import annotations

from collections.abc import Iterable

from models.findings import ModelRun, Precision

PRECISION = "precision="


def parameters(run: ModelRun) -> tuple[str, ...]:
    """All of a run, in their order."""
    model = run.model
    return (f"weights sha256:{model.weights_digest}", f"config sha256:{model.config_digest}", *lowered(run))


def lowered(run: ModelRun) -> tuple[str, ...]:
    """The precision of a run, where it is not float32."""
    return () if run.precision is Precision.FLOAT32 else (f"{PRECISION}{run.precision.value}",)


def digests_of(said: Iterable[str]) -> dict[str, str]:
    """What is identified by its SHA-256: ``weights``, ``config``."""
    return {what: digest for what, found, digest in (one.partition(" sha256:") for one in said) if found}


def precision_of(said: Iterable[str]) -> Precision:
    """The precision of a run.

    Raises
    ------
    ValueError
        When it is one that this version does not know.
    """
    named = (one.removeprefix(PRECISION) for one in said if one.startswith(PRECISION))
    return Precision(next(named, Precision.FLOAT32))
