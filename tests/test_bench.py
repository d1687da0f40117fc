"""The benchmark's parts work; how fast they are is not a test's business."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench import decoders, encode, intake


def test_the_intake_benchmark_times_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    small = np.clip(np.random.default_rng(0).normal(0.5, 0.1, (220, 200)), 0, 1)
    monkeypatch.setattr(intake, "noisy_radiograph", lambda: small)
    steps = intake.compare(rounds=1)
    assert {step.name for step in steps} >= {intake.BASELINE, intake.WHOLE, intake.ISOLATED}
    assert all(step.minimum > 0 for step in steps)


def test_a_decoder_with_other_values_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "ROWS", 4)
    monkeypatch.setattr(decoders, "COLUMNS", 4)
    right, wrong = np.zeros((4, 4), np.uint16), np.full((4, 4), 9, np.uint16)
    candidates = [decoders._Candidate("right", lambda: right), decoders._Candidate("wrong", lambda: wrong)]
    first, second = decoders._time(decoders.JPEG2000Lossless, candidates, 2)
    assert (first.error, second.error) == ("", "differs by 9")
    assert second.median is None


def test_the_encoding_benchmark_times_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "ROWS", 120)
    monkeypatch.setattr(encode, "COLUMNS", 100)
    steps = encode.compare(rounds=1)
    assert {step.name for step in steps} >= {encode.BASELINE, encode.WHOLE, encode.FIRST}
    assert all(0 < step.median <= step.p95 for step in steps)
