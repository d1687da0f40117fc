"""The benchmark's parts work; how fast they are is not a test's business."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.bench import decoders, encode, intake


def test_the_intake_benchmark_times_every_step_and_decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = np.clip(np.random.default_rng(0).normal(0.5, 0.1, (220, 200)), 0, 1)
    monkeypatch.setattr(intake, "noisy_radiograph", lambda: small)
    monkeypatch.setattr(decoders, "ROWS", 220)
    monkeypatch.setattr(decoders, "COLUMNS", 200)
    steps = intake.compare(rounds=1, json_file=tmp_path / "intake.json")
    assert {step.name for step in steps} >= {intake.BASELINE, intake.WHOLE, intake.ISOLATED}
    assert all(step.seconds.lowest > 0 for step in steps)
    written = json.loads((tmp_path / "intake.json").read_text())
    assert len(written["steps"]) == len(steps)
    ours = [timing for timing in written["decoders"] if timing["decoder"] == decoders.OURS]
    assert len(ours) > 10
    assert all(timing["seconds"]["p50"] > 0 for timing in ours)


def test_a_decoder_with_other_values_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "ROWS", 4)
    monkeypatch.setattr(decoders, "COLUMNS", 4)
    right, wrong = np.zeros((4, 4), np.uint16), np.full((4, 4), 9, np.uint16)
    candidates = [decoders._Candidate("right", lambda: right), decoders._Candidate("wrong", lambda: wrong)]
    first, second = decoders._time(decoders.JPEG2000Lossless, candidates, 2)
    assert (first.error, second.error) == ("", "differs by 9")
    assert second.seconds is None
    assert "differs by 9" in decoders.sheet([first, second]).markdown()


def test_the_encoding_benchmark_times_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "ROWS", 120)
    monkeypatch.setattr(encode, "COLUMNS", 100)
    steps = encode.compare(rounds=1)
    assert {step.name for step in steps} >= {encode.BASELINE, encode.WHOLE, encode.FIRST}
    assert all(0 < step.seconds.p50 <= step.seconds.p95 for step in steps)
