"""What a run tells while it goes on.

The rule: the log of a run that was stopped and went on is that of one that was not, and what was left out is said.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from training.readers.records import LeftOut

FACTS = "run.json"
_FIRST = 5  # of what was left out, on the terminal


class RunLog:
    """JSON lines, and TensorBoard's events where its package is installed; lines of epochs to be redone are dropped.

    Parameters
    ----------
    folder
        Where they go; None for a worker that writes nothing.
    epochs
        How many are done and not to be redone.
    """

    def __init__(self, folder: Path | None, epochs: int) -> None:
        self._file: TextIO | None = None
        self._board: Any = None
        if folder is None:
            return
        path = folder / "log.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line).get("epoch", 0) < epochs]
        path.write_text("".join(line + "\n" for line in kept), "utf-8")
        self._file = path.open("a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            tqdm.write("the package tensorboard is not installed: the log is log.jsonl alone")
        else:
            last = max((json.loads(line)["step"] for line in kept), default=-1)
            self._board = SummaryWriter(str(folder), purge_step=last + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, kind: str, epoch: int, step: int, figures: Mapping[str, float], **more: float) -> None:
        """Add a line: ``step`` or ``epoch``, where it stands and what it came to."""
        if self._file is None:
            return
        said = {k: v if math.isfinite(v) else None for k, v in {**figures, **more}.items()}
        self._file.write(json.dumps({"kind": kind, "epoch": epoch, "step": step, **said}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write facts for people and programs."""
    path.write_text(json.dumps(content, indent=1, default=list) + "\n", "utf-8")


def tell_left_out(left_out: Sequence[LeftOut], folder: Path) -> None:
    """Say on the terminal how much was left out, the first of it, and where the whole list is."""
    if not left_out:
        return
    first = "".join(f"\n  {one.row}: {one.reason}" for one in left_out[:_FIRST])
    tqdm.write(
        f"hilum: {len(left_out):,} rows, images or parts of them were left out; {folder / FACTS} names each. "
        f"The first:{first}",
        file=sys.stderr,
    )


def add_left_out(left_out: Sequence[LeftOut], folder: Path) -> None:
    """Add to the facts of a run what was left out after it had begun, and say it."""
    if not left_out:
        return
    facts = json.loads((folder / FACTS).read_text("utf-8"))
    facts["left_out"] += [asdict(one) for one in left_out]
    write_json(folder / FACTS, facts)
    tell_left_out(left_out, folder)
