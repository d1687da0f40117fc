"""A discrete-event simulation (SimPy) of studies that wait for workers, and of workers that share a machine's cores.

The rule: times are drawn anew from those that were measured, never from a formula; what is assumed stands in `Day`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

FloatArray = npt.NDArray[np.float64]
_HOUR = 3600.0
_WARMING = 600.0  # s before the busiest hour, in which the queue takes its form
_COUNTED = 5_000  # studies of the busiest hour, at least, in days enough
_SLICE = 0.005  # s of processor time that a process has before it is another's turn
_STEPS = 10  # in which a pass takes turns between computing and waiting for Orthanc
_LIVE, _BACKGROUND = 0, 1


@dataclass(frozen=True)
class Day:
    """When studies come; all of it assumed, as nothing that we may publish tells it for a group of hospitals.

    Parameters
    ----------
    shares
        Of a day's studies, in percent, that come in each hour; between the middles of two hours the rate is a straight
        line. Night, morning rounds with portable radiographs, clinics, a midday dip, evening.
    """

    shares: tuple[float, ...] = (
        1.4, 1.2, 1.1, 1.2, 1.8, 3.0, 4.2, 5.2, 7.6, 9.2, 10.0, 8.8,
        6.2, 6.4, 7.0, 6.4, 5.0, 3.8, 2.8, 2.2, 1.7, 1.5, 1.3, 1.0,
    )  # fmt: skip

    @property
    def peak(self) -> int:
        """The busiest hour of the day."""
        return int(np.argmax(self.shares))

    def rate(self, seconds: FloatArray) -> FloatArray:
        """Share of a day's studies a second, at times of day."""
        hours = np.arange(-1, 25) + 0.5
        shares = np.array([self.shares[-1], *self.shares, self.shares[0]]) / sum(self.shares) / _HOUR
        return np.interp(np.asarray(seconds) / _HOUR, hours, shares)

    @property
    def peak_rate(self) -> float:
        """The highest share a second."""
        return float(max(self.rate(np.linspace(0, 24 * _HOUR, 24 * 60 + 1))))

    def arrivals(self, studies: float, rng: np.random.Generator) -> FloatArray:
        """Seconds of the day at which some of so many studies come: shortly before the busiest hour, and in it."""
        begin, end = self.peak * _HOUR - _WARMING, (self.peak + 1) * _HOUR
        most = studies * self.peak_rate
        drawn = np.sort(rng.uniform(begin, end, rng.poisson(most * (end - begin))))
        kept = rng.random(len(drawn)) < studies * self.rate(drawn) / most  # thinning: Poisson whose rate changes
        return drawn[kept]


@dataclass(frozen=True)
class Served:
    """What was measured of reading: seconds of a pass, for which a worker is taken; and until a lone study's flag."""

    passes: FloatArray
    flags: FloatArray


@dataclass(frozen=True)
class Waited:
    """Seconds from arrival to flag in the busiest hour, and the share of the time for which live studies kept workers
    busy."""

    p50: float
    p95: float
    p99: float
    busy: float


def busiest_hour(
    studies: float, workers: int, served: Served, day: Day, *, rereading: bool = False, seed: int = 1
) -> Waited:
    """Play the busiest hour of so many days that its figures are steady.

    Parameters
    ----------
    rereading
        An archive is read again meanwhile: whenever no live study is due, a worker takes one of it, and ends it.
    """
    rng = np.random.default_rng(seed)
    flagged: list[FloatArray] = []
    worked = 0.0
    while sum(map(len, flagged)) < _COUNTED:
        came = day.arrivals(studies, rng)
        waited, taken = _play(came, workers, served, rng, rereading=rereading)
        counted = came >= day.peak * _HOUR
        flagged.append((waited + rng.choice(served.flags, len(came)))[counted])
        worked += float(taken[counted].sum())
    p50, p95, p99 = (float(value) for value in np.percentile(np.concatenate(flagged), (50, 95, 99)))
    return Waited(p50, p95, p99, worked / (len(flagged) * workers * _HOUR))


def _play(
    came: FloatArray, workers: int, served: Served, rng: np.random.Generator, *, rereading: bool
) -> tuple[FloatArray, FloatArray]:
    """Seconds for which each study waited for a worker, and kept it."""
    taken, waited = rng.choice(served.passes, len(came)), np.zeros(len(came))
    if not len(came):
        return waited, taken
    env = simpy.Environment(initial_time=came[0])
    pool = simpy.PriorityResource(env, workers)

    def study(number: int) -> Generator[Any, Any, None]:
        with pool.request(_LIVE) as turn:
            yield turn
            waited[number] = env.now - came[number]
            yield env.timeout(taken[number])

    def coming() -> Generator[Any, Any, None]:
        for number, at in enumerate(came):
            yield env.timeout(max(0.0, at - env.now))
            env.process(study(number))

    def archive() -> Generator[Any, Any, None]:
        while env.now < came[-1]:
            with pool.request(_BACKGROUND) as turn:
                yield turn
                yield env.timeout(rng.choice(served.passes))

    if rereading:
        for _ in range(workers):
            env.process(archive())
    env.process(coming())
    env.run()
    return waited, taken


def workers_for(studies: float, served: Served, day: Day, limit: float) -> tuple[int, Waited]:
    """The fewest workers with which 95 of 100 studies of the busiest hour are flagged within `limit` seconds."""
    offered = studies * sum(served.passes) / len(served.passes) * max(day.shares) / sum(day.shares) / _HOUR
    workers = max(1, int(offered))
    while (waited := busiest_hour(studies, workers, served, day)).p95 >= limit:
        workers += 1
    return workers, waited


@dataclass(frozen=True)
class Work:
    """What one study wants of a machine.

    Parameters
    ----------
    passes
        Seconds of a pass by a worker that has the machine to itself.
    computing
        Of a mean pass, seconds of processor time of the worker's own processes, one after the other.
    others
        Seconds of processor time of Orthanc, database and whoever watches.
    """

    passes: Sequence[float]
    computing: float
    others: float


def studies_a_second(work: Work, workers: int, cores: int, studies: int = 400, seed: int = 1) -> float:
    """How fast workers that share some cores with Orthanc drain a queue.

    Each process has a core for a slice of time, then it is another's turn. Orthanc works while a worker waits for it;
    what it does beyond that it does beside the worker.
    """
    rng, env = np.random.default_rng(seed), simpy.Environment()
    processors = simpy.Resource(env, cores)
    mean = float(np.mean(work.passes))
    left = iter(rng.choice(np.asarray(work.passes), studies))

    def compute(seconds: float) -> Generator[Any, Any, None]:
        while seconds > 0:
            with processors.request() as turn:
                yield turn
                yield env.timeout(min(_SLICE, seconds))
            seconds -= _SLICE

    def wait(seconds: float, others: float) -> Generator[Any, Any, None]:
        yield env.timeout(seconds) & env.process(compute(others))

    def worker() -> Generator[Any, Any, None]:
        for whole in left:
            computing, others = (part * whole / mean / _STEPS for part in (work.computing, work.others))
            waiting = max(0.0, whole / _STEPS - computing)
            for _ in range(_STEPS):
                yield env.process(compute(computing))
                awaited = min(waiting, others)
                env.process(compute(others - awaited))
                yield env.process(wait(waiting, awaited))

    for _ in range(workers):
        env.process(worker())
    env.run()
    return studies / float(env.now)
