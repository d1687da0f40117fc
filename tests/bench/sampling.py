"""Where a process spends its processor time, by looking at it every few milliseconds of that.

The rule: calls are not timed and so not slowed, unlike under cProfile, where thousands of small ones look like the
work itself; and as the clock is the processor's, other programs on the machine change little.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from orthanc_plugin.settings import REPOSITORY

_STEP_SECONDS = 0.001  # of processor time; most systems look every 4 ms at the earliest
_FUNCTIONS = 20


@dataclass
class Samples:
    """How often each function was at work, itself or by what it called.

    Parameters
    ----------
    seconds
        Of processor time, that were sampled.
    itself
        Also counts what was at work in C below it.
    """

    number: int = 0
    seconds: float = 0.0
    itself: Counter[str] = field(default_factory=Counter)
    below: Counter[str] = field(default_factory=Counter)

    def take(self, _signal: int, frame: FrameType | None) -> None:
        """Note what is at work now."""
        stack = []
        while frame is not None:
            stack.append(_name(frame))
            frame = frame.f_back
        self.number += 1
        self.itself.update(stack[:1])
        self.below.update(set(stack))

    def table(self, times: int) -> str:
        """The most frequent functions as text, in milliseconds for each of so many times."""
        step = 1000 * self.seconds / max(1, self.number) / times
        head = f"{1000 * self.seconds / times:.0f} ms of processor time for each of {times}, {self.number} samples"
        parts = [head]
        own = Counter({name: count for name, count in self.below.items() if name.startswith(_OURS)})
        for title, counted in (("by itself", self.itself), ("with what it called, our own functions", own)):
            parts += ["", f"{'ms':>7}  {title}"]
            parts += [f"{count * step:7.1f}  {name}" for name, count in counted.most_common(_FUNCTIONS)]
        return "\n".join(parts)


_OURS = ("models/", "dicom_sr/", "orthanc_plugin/")


@contextmanager
def sampled() -> Iterator[Samples]:
    """Sample the main thread, in which this must be called, for the time of a block."""
    samples = Samples()
    before, started = signal.signal(signal.SIGPROF, samples.take), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, _STEP_SECONDS, _STEP_SECONDS)
    try:
        yield samples
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        samples.seconds = time.process_time() - started
        signal.signal(signal.SIGPROF, signal.SIG_IGN)  # one that is on its way is dropped; by default it would kill
        signal.signal(signal.SIGPROF, before)


def _name(frame: FrameType) -> str:
    """File and function: of ours from the repository's root on, of others from their package on."""
    file = frame.f_code.co_filename
    ours = file.removeprefix(f"{REPOSITORY}/")
    told = "/".join(Path(file).parts[-2:]) if ours == file else ours
    return f"{told}:{frame.f_code.co_qualname}"
