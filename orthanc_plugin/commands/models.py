"""``./hilum models``: which bundles there are, which are active or in shadow, and how to change that.

The rule: what cannot be loaded, or fails on a phantom, never becomes active; a running node takes up a change between
two studies by itself.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dicom_sr.report.statements import can_be_stated
from models.activation import Activation, Choice
from models.bundle import Bundle, BundleInvalid
from models.inference import assemble
from models.registry import Packaged, Registry
from models.trial import try_out
from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.commands.shadow_report import ShadowReport, compare
from orthanc_plugin.ledger.shared_files import ACTIVE_MODELS, changing
from orthanc_plugin.reading.active_models import registry_of, threads_of
from orthanc_plugin.reading.shadow import Shadow
from orthanc_plugin.settings import Settings

_WIDE = 200  # columns, where nobody looks at them


class ModelsCommand:
    """What every subcommand works with."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry: Registry = registry_of(settings)
        self.activation = Activation(settings.active_models)
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)

    def say(self, text: str) -> None:
        """One sentence, as it is."""
        self.console.print(text, markup=False, soft_wrap=True)

    def survey(self, options: Namespace) -> int:
        """Every bundle; 1 when what is active is not here."""
        problem = self._problem_of_choice()
        found = [self._summary(bundle) for bundle in self.registry.bundles()]
        if options.json:
            _print_json({"bundles": found, "problem": problem})
        else:
            table = _table("name", "version", "from", "runs", "SHA-256")
            for one in found:
                table.add_row(
                    one["name"], one["version"], "Hilum" if one["shipped"] else "this site", one["runs"],
                    one["digest"][:12],
                )  # fmt: skip
            self.console.print(table)
            if problem:
                self.say(problem)
        return 1 if problem else 0

    def show(self, options: Namespace) -> int:
        """Everything about one bundle, version after version."""
        bundles = [b for b in self.registry.bundles() if b.name == options.name]
        if options.version:
            bundles = [self.registry.find(options.name, options.version)]
        if not bundles:
            raise BundleInvalid(f"there is no bundle {options.name} (./hilum models list)")
        described = [self._described(bundle) for bundle in bundles]
        if options.json:
            _print_json(described)
            return 0
        for one in described:
            self._show(one)
        return 0

    def verify(self, options: Namespace) -> int:
        """Read every file again and load every bundle; 1 when one is not as it was recorded."""
        found = []
        for bundle in self.registry.bundles():
            found.append({**self._summary(bundle), "problem": _problem(bundle.load)})
        if (problem := self._problem_of_choice()) is None:
            problem = _problem(lambda: self._load(self.activation.choice))
        bad = [one["problem"] for one in found if one["problem"]]
        if options.json:
            _print_json({"bundles": found, "problem": problem})
        else:
            table = _table("name", "version", "runs", "")
            for one in found:
                table.add_row(one["name"], one["version"], one["runs"], "damaged" if one["problem"] else "as recorded")
            self.console.print(table)
            for text in dict.fromkeys([*bad, *([problem] if problem else [])]):
                self.say(text)
        return 1 if bad or problem else 0

    def activate(self, options: Namespace) -> int:
        """Have one version read the next study, or run in shadow, after a trial on a phantom."""
        bundle, choice = self._one(options.name, options.version), self.activation.choice
        if options.shadow:
            loaded = bundle.load()
            shadow = Shadow.of(loaded, threads=threads_of(self.settings))
            _require_findings(loaded, "it tells no finding; train on it (./hilum train)")
            try_out(shadow.models)
            if bundle in choice.bundles(self.registry, self.settings.bundles):
                raise BundleInvalid(f"{bundle.title} is active: what it says is published already")
            self.activation.choose(choice.watch(bundle))
            self.say(f"{bundle.title} runs in shadow from the next study on: ./hilum models show {bundle.name}")
            return 0
        chosen = choice.activate(bundle, self.settings.bundles)
        loaded = next(one for one in self._load(chosen, trial=True) if one.identity.name == bundle.name)
        if loaded.contract.criteria is None:  # which tell what follows from other findings
            evaluated = tuple(finding for finding in loaded.contract.findings if finding.evaluated)
            _require_findings(loaded, "nothing that it tells was evaluated: run it in shadow (--shadow)", evaluated)
        _require_codes(loaded)
        self.activation.choose(chosen)
        self.say(f"{bundle.title} is active: the next study is read with it. ./hilum models rollback goes back.")
        return 0

    def deactivate(self, options: Namespace) -> int:
        """End what `activate` began."""
        bundle, choice = self._one(options.name, options.version), self.activation.choice
        left = choice.drop(bundle)
        if left == choice:
            why = "the setting bundles names it" if bundle.name in self.settings.bundles else "it does not run"
            raise BundleInvalid(f"{bundle.title} cannot be deactivated: {why}")
        self._load(left)
        self.activation.choose(left)
        self.say(f"{bundle.title} runs no more, from the next study on.")
        return 0

    def rollback(self, _options: Namespace) -> int:
        """Go back to what was chosen before, to the latest of it that is whole."""
        for steps, (until, choice) in enumerate(self.activation.earlier, start=1):
            if (problem := _problem(lambda choice=choice: self._load(choice))) is not None:  # type: ignore[misc]
                self.say(f"Not back to before {until}: {problem}")
                continue
            self.activation.go_back(steps)
            self.say(f"Back to what was chosen until {until}; the next study is read with it:")
            for bundle in choice.bundles(self.registry, self.settings.bundles):
                self.say(f"  {bundle.title}")
            return 0
        what = "whole to go back to" if self.activation.earlier else "to go back to: no other models were chosen"
        raise BundleInvalid(f"there is nothing {what}; ./hilum models verify tells what is damaged")

    def add(self, options: Namespace) -> int:
        """Take a bundle from a folder into those of the site."""
        self._added(self.registry.add(options.folder, options.name or ""))
        return 0

    def pin(self, _options: Namespace) -> int:
        """Record the shipped bundles as they are now."""
        for bundle in self.registry.pin():
            self.say(f"{bundle.title}: {bundle.digest[:12]}")
        return 0

    def import_weights(self, options: Namespace) -> int:
        """Make a bundle of published weights and take it into those of the site."""
        from training.importers import packaged
        from training.importers.registry import download, entry
        from training.importers.weights import WeightsRefused

        try:
            known = entry(options.variant or packaged.variants(options.importer)[0], options.importer)
            name = options.name or packaged.bundle_name(options.importer, known.name)
            with tempfile.TemporaryDirectory() as folder:
                file = options.file or download(known, Path(folder))
                made = Path(folder) / name
                imported = packaged.import_bundle(options.importer, known.name, file, made, options.version)
                self.say(str(imported.provenance))
                self._added(self.registry.add(made))
        except WeightsRefused as error:
            raise NodeFailed(str(error)) from error
        return 0

    def _added(self, bundle: Packaged) -> None:
        self.say(f"{bundle.title} lies in {bundle.folder}. Not active yet: ./hilum models activate {bundle.title}")

    def _one(self, name: str, version: str | None) -> Packaged:
        of_name = [bundle for bundle in self.registry.bundles() if bundle.name == name]
        if version is None and len(of_name) == 1:
            return of_name[0]
        if version is None and of_name:
            raise BundleInvalid(f"name a version of {name}: {', '.join(bundle.version for bundle in of_name)}")
        return self.registry.find(name, version or "(any version)")

    def _load(self, choice: Choice, *, trial: bool = False) -> list[Bundle]:
        """Load what would be active, all of it together."""
        loaded = [bundle.load() for bundle in choice.bundles(self.registry, self.settings.bundles)]
        models = assemble(loaded, threads=threads_of(self.settings))
        if trial:
            try_out(models)
        return loaded

    def _problem_of_choice(self) -> str | None:
        def find() -> None:
            choice = self.activation.choice
            choice.bundles(self.registry, self.settings.bundles)
            choice.shadows(self.registry)

        return _problem(find)

    def _summary(self, bundle: Packaged) -> dict[str, Any]:
        runs = ""
        try:
            choice = self.activation.choice
            if (bundle.name, bundle.version) in choice.shadow:
                runs = "in shadow"
            if bundle in choice.bundles(self.registry, self.settings.bundles):
                runs = "active"
        except BundleInvalid:  # told once, below the table
            pass
        return {
            "name": bundle.name, "version": bundle.version, "shipped": bundle.shipped, "runs": runs,
            "digest": bundle.digest, "digests": dict(bundle.digests), "folder": str(bundle.folder),
        }  # fmt: skip

    def _described(self, bundle: Packaged) -> dict[str, Any]:
        bundle.verify()
        metadata = json.loads((bundle.folder / "configs" / "metadata.json").read_text("utf-8"))
        report = compare(self.settings.shadow_records, bundle.name, bundle.version)
        return {
            **self._summary(bundle),
            "purpose": metadata.get("description", ""),
            "contract": {k: v for k, v in metadata["hilum"].items() if k not in ("figures", "provenance")},
            "figures": metadata["hilum"].get("figures", {}),
            "shadow": _report_json(report) if report.images else None,
        }

    def _show(self, one: dict[str, Any]) -> None:
        contract, shadow = one["contract"], one["shadow"]
        self.say(f"{one['name']} {one['version']}{', ' + one['runs'] if one['runs'] else ''}: {one['purpose']}")
        self.say(f"  from        {'Hilum' if one['shipped'] else 'this site'}, {one['folder']}")
        size = f", {contract['input_size']} pixels" if "input_size" in contract else ", no network"
        self.say(f"  interpreter {contract['interpreter']}{size}")
        for file, digest in one["digests"].items():
            self.say(f"  SHA-256     {digest}  {file}")
        for key, value in contract.get("criteria", {}).items():
            self.say(f"  {key.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}")
        if findings := contract.get("findings"):
            table = _table("  finding", "evaluated", "absent below", "present from", "AUROC", "95 % interval")
            for key, finding in findings.items():
                area = _auroc(one["figures"], key)
                table.add_row(
                    f"  {key}", "yes" if finding["evaluated"] else "no", f"{finding['threshold_absent']:.3f}",
                    f"{finding['threshold_present']:.3f}", _number(area.get("value")), _interval(area),
                )  # fmt: skip
            self.console.print(table)
        table = _table("  figure", "value", "95 % interval")
        for key, figure in one["figures"].items():
            if isinstance(figure, dict) and "value" in figure:
                table.add_row(f"  {key.replace('_', ' ')}", _number(figure["value"]), _interval(figure))
        if table.row_count:
            self.console.print(table)
        if shadow:
            self._show_shadow(shadow)
        self.say("")

    def _show_shadow(self, shadow: dict[str, Any]) -> None:
        self.say(f"  in shadow   {shadow['images']} images, {shadow['failed']} failed, {shadow['seconds']:.2f} s each")
        if shadow["findings"]:
            table = _table("  finding", "images", "present", "compared", "same state", "probability apart by")
            for one in shadow["findings"]:
                same = f"{100 * one['agreed'] / one['compared']:.0f} %" if one["compared"] else ""
                table.add_row(f"  {one['key']}", str(one["images"]), str(one["present"]), str(one["compared"]), same,
                              _number(one["difference"]))  # fmt: skip
            self.console.print(table)
        for key, (apart, images) in shadow["measurements"].items():
            self.say(f"  {key.replace('_', ' ')} apart by {apart:.3f} on {images} images")


def models(settings: Settings, options: Namespace) -> int:
    """Run one of the subcommands.

    Raises
    ------
    NodeFailed
        With what is wrong with a bundle.
    """
    command = ModelsCommand(settings)
    commands: dict[str, Callable[[Namespace], int]] = {
        "list": command.survey,
        "show": command.show,
        "verify": command.verify,
        "activate": command.activate,
        "deactivate": command.deactivate,
        "rollback": command.rollback,
        "add": command.add,
        "import": command.import_weights,
        "pin": command.pin,
    }
    chooses = options.do in ("activate", "deactivate", "rollback")
    try:
        with changing(settings, ACTIVE_MODELS) if chooses else nullcontext():
            return commands[options.do](options)
    except BundleInvalid as error:
        raise NodeFailed(str(error)) from error


def _problem(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except BundleInvalid as error:
        return str(error)
    return None


def _require_findings(bundle: Bundle, why: str, findings: Sequence[object] | None = None) -> None:
    """Refuse what tells findings and has nothing to say."""
    if bundle.contract.interpreter in ("gate", "structures"):
        return
    if not (bundle.contract.findings if findings is None else findings):
        raise BundleInvalid(f"{bundle.identity.name} {bundle.identity.version}: {why}")


def _require_codes(bundle: Bundle) -> None:
    """Refuse what no report could state: every study would fail."""
    outlined = bundle.contract.interpreter == "masks"
    if unknown := [f.key for f in bundle.contract.findings if not can_be_stated(f.key, outlined=outlined)]:
        title = f"{bundle.identity.name} {bundle.identity.version}"
        raise BundleInvalid(f"{title}: no report can state {', '.join(unknown)}; dicom_sr/codes.csv says what can be")


def _report_json(report: ShadowReport) -> dict[str, Any]:
    return {
        "images": report.images,
        "failed": report.failed,
        "seconds": report.seconds,
        "findings": [vars(finding) for finding in report.findings],
        "measurements": {key: list(value) for key, value in report.measurements.items()},
    }


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _auroc(figures: dict[str, Any], key: str) -> dict[str, Any]:
    """That of a finding, as our own bundles have it or as recipes write it; empty when it was not measured."""
    for path in ((key, "auroc"), ("auroc", "findings", key)):
        found: Any = figures
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, dict) and "value" in found:
            return found
    return {}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(figure: dict[str, Any]) -> str:
    return "" if figure.get("low") is None else f"{figure['low']:.3f} to {figure['high']:.3f}"


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
