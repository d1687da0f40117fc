"""``./hilum train quantise BUNDLE...``: measures a bundle in half precision and in integers, and writes what holds.

Real pictures calibrate the integers and judge both precisions (``training.precision_evidence``). Beside the weights
come ``precisions.json`` and, where it may be taken, the network in integers; the card gets a table. Bundles that are
named together and begin alike become one network, as in the node. Whoever ships them records the digests anew
(``./hilum models pin``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from models.bundle import Bundle, BundleInvalid, load_bundle
from models.forward import FloatArray, Runner, torch_forward
from models.precisions import BESIDE, QUANTISED, STATEMENT
from models.probe import differences, probe
from models.runtime import Engine, Runtime, groups_of, network_of
from models.translation import openvino_forward, quantised_forward
from training.data import DataMissing, data_digest
from training.export.program import ExporterMissing, require
from training.precision_card import write_section
from training.precision_evidence import Trial, trial_of
from training.quantising import quantise

_REPOSITORY = Path(__file__).resolve().parent.parent
_MARGIN = 1.5  # times what they lay apart about the probe here: without VNNI, some networks in integers lie four times
_LEAST_TOLERANCE = 1e-3
_FIRST = (0, 2)  # layers that are kept in float32: none, and then so many if that loses something


def main(arguments: Sequence[str]) -> int:
    """Quantise and measure what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="./hilum train quantise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="a bundle of models/, or a folder")
    parser.add_argument("--data", type=Path, default=_REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--seed", type=int, default=7, help="that with which the bundle was trained")
    options = parser.parse_args(arguments)
    try:
        require("nncf")
        folders = [Path(name) if Path(name).is_dir() else _REPOSITORY / "models" / name for name in options.bundles]
        bundles = [load_bundle(folder) for folder in folders]
        for group in groups_of(bundles):
            accepted = write_precisions([folders[number] for number in group], options.data, seed=options.seed)
            told = ", ".join(f"{runtime} {'may' if may else 'may not'} be taken" for runtime, may in accepted.items())
            print(f"hilum: {' and '.join(folders[number].name for number in group)}: {told}", file=sys.stderr)
    except (BundleInvalid, DataMissing, ExporterMissing, ValueError) as error:
        print(f"hilum: {error}", file=sys.stderr)
        return 1
    print("hilum: record the digests: ./hilum models pin", file=sys.stderr)
    return 0


def write_precisions(
    folders: Sequence[Path], data: Path, *, seed: int, trials: Sequence[Trial] | None = None
) -> dict[str, bool]:
    """Measure bundles that are run together, and write statement, files and card; which precisions may be taken.

    Parameters
    ----------
    folders
        Of the bundles, the network of which becomes one; usually one.
    trials
        On which pictures; by default those of `data`.
    """
    for folder, file in product(folders, BESIDE):
        (folder / file).unlink(missing_ok=True)
    bundles = [load_bundle(folder) for folder in folders]
    trials = [trial_of(bundle, data, seed) for bundle in bundles] if trials is None else trials
    network, example, names = network_of(bundles), probe(bundles[0]), tuple(b.identity.name for b in bundles)
    right = Engine(names, Runtime.TORCH, _remembered(torch_forward(network)))
    half = openvino_forward(lambda: network, example, precision="bf16", threads=1, kept=None)
    measured = {
        Runtime.OPENVINO_BF16: _measure(bundles, trials, right, Engine(names, Runtime.OPENVINO_BF16, _remembered(half)))
    }
    for first in _FIRST:
        files = dict(zip(QUANTISED, quantise(network, trials[0].calibrating, first=first), strict=True))
        engine = Engine(names, Runtime.OPENVINO_INT8, _remembered(quantised_forward(*files.values(), threads=1)))
        measured[Runtime.OPENVINO_INT8] = _measure(bundles, trials, right, engine)
        if all(entry["accepted"] for entry in measured[Runtime.OPENVINO_INT8]):
            quantised = {
                "parts": [bundle.identity.weights_digest for bundle in bundles],
                "first_layers_in_float32": first,
                "files": {file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
            }
            measured[Runtime.OPENVINO_INT8][0].update(quantised)
            for file, content in files.items():
                (folders[0] / file).write_bytes(content)
            break
    for number, (folder, bundle) in enumerate(zip(folders, bundles, strict=True)):
        said = {str(runtime): entries[number] for runtime, entries in measured.items()}
        statement = {
            "weights_sha256": bundle.identity.weights_digest,
            "config_sha256": bundle.identity.config_digest,
            "precisions": said,
            "provenance": _provenance(names, trials[0], seed),
        }
        (folder / STATEMENT).write_text(json.dumps(statement, indent=1) + "\n", "utf-8")
        write_section(folder, said)
    return {str(runtime): all(entry["accepted"] for entry in entries) for runtime, entries in measured.items()}


def _remembered(runner: Runner) -> Runner:
    """The same, which is asked about each picture once: for every part, and beside every precision."""
    known: dict[bytes, dict[str, FloatArray]] = {}

    def remembered(picture: FloatArray) -> dict[str, FloatArray]:
        key = hashlib.sha256(picture.tobytes()).digest()
        if key not in known:
            known[key] = runner(picture)
        return known[key]

    return Runner(remembered, runner.precision)


def _measure(bundles: Sequence[Bundle], trials: Sequence[Trial], right: Engine, engine: Engine) -> list[dict[str, Any]]:
    """What each bundle says of one precision."""
    found, example = [], probe(bundles[0])
    for number, trial in enumerate(trials):
        before, after = right.part(number), engine.part(number)
        changes = trial.compare(before, after)
        apart = differences(before(example), after(example))
        found.append(
            {
                "accepted": bool(changes) and all(change.held is not False for change in changes),
                "tolerances": {
                    name: round(max(_MARGIN * far, _LEAST_TOLERANCE), 4) for name, far in sorted(apart.items())
                },
                "figures": [asdict(change) for change in changes],
            }
        )
    return found


def _provenance(names: Sequence[str], trial: Trial, seed: int) -> dict[str, Any]:
    packages = ("nncf", "openvino", "torch")
    return {
        "command": f"./hilum train quantise {' '.join(names)} --seed {seed}",
        "seed": seed,
        "calibrated_on": {"pictures": len(trial.calibrating), "sha256": data_digest(f for f in trial.files if f.name)},
        "versions": {package: version(package).split("+")[0] for package in packages},
    }
