"""``./hilum sbom``: a bill of materials (CycloneDX 1.6): what this Hilum consists of, and by which digests it is known.

The rule: it says what the locks, the records of the bundles and the notes of vendored files say, and of what is
installed here the licence that a package declares and the version of Debian's packages. Nothing is asked of a network.
"""

from __future__ import annotations

import argparse
import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from models.registry import Registry
from orthanc_plugin import __version__
from orthanc_plugin.commands.locked_packages import Locked, lock_files, read_lock
from orthanc_plugin.settings import REPOSITORY, SettingsInvalid, load_settings
from orthanc_plugin.viewer.prepare import read_pin
from orthanc_plugin.worklist import page

_VENDORED = Path(page.__file__).parent / "static" / "vendor"
_DIGEST = re.compile(r"^([0-9a-f]{64})  (\S+)$", re.MULTILINE)
_PACKAGE = re.compile(r"`(\S+)` \| `(\S+)@(\S+)` \| `sha512-")
_DEBIAN = re.compile(r"^packages=\((.*)\)", re.MULTILINE)
_LICENCES = LicenseFactory()


def bill(own_models: Path) -> Bom:
    """Everything that this Hilum consists of.

    Parameters
    ----------
    own_models
        Folder of the site's own bundles; it need not be there.
    """
    bom = Bom()
    hilum = Component(name="hilum", version=__version__, type=ComponentType.APPLICATION, bom_ref=f"hilum@{__version__}",
                      licenses=[_LICENCES.make_from_string("AGPL-3.0-only")])  # fmt: skip
    bom.metadata.component = hilum
    parts = [*_python_packages(), *_scripts(), _viewer(), *_debian_packages(), *_bundles(own_models)]
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(hilum, parts)
    return bom


def main() -> int:
    """Write the bill."""
    parser = argparse.ArgumentParser(prog="./hilum sbom", description=main.__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=Path("bom.json"), metavar="FILE")
    options = parser.parse_args()
    try:
        own = load_settings().own_models
    except SettingsInvalid as error:
        print(f"hilum: {error}", file=sys.stderr)
        return 1
    made = bill(own)
    make_outputter(made, OutputFormat.JSON, SchemaVersion.V1_6).output_to_file(str(options.file), True, indent=1)
    print(f"{options.file}: {len(made.components)} components")
    return 0


def _python_packages() -> Iterator[Component]:
    for file in lock_files():
        for package in read_lock(file):
            yield Component(
                name=package.name,
                version=package.version,
                type=ComponentType.LIBRARY,
                bom_ref=f"{file.name}:{package.canonical_name}",
                purl=PackageURL("pypi", None, package.canonical_name, package.version),
                licenses=_licence(package),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one) for one in package.hashes],
                properties=[Property(name="hilum:lock", value=file.name)],
            )


def _licence(package: Locked) -> list[License]:
    """What the package declares, where it is installed."""
    try:
        told = metadata.metadata(package.name)
    except metadata.PackageNotFoundError:
        return []
    short = next((told[name].strip() for name in ("License-Expression", "License") if name in told), "")
    if short and "\n" not in short:
        return [_LICENCES.make_from_string(short)]
    named = [one.rpartition(" :: ")[2] for one in told.get_all("Classifier") or () if one.startswith("License :: ")]
    return [_LICENCES.make_with_name(one) for one in dict.fromkeys(named)]


def _scripts() -> Iterator[Component]:
    """Scripts of others that the pages use."""
    notes = (_VENDORED / "README.md").read_text("utf-8")
    digests = {name: digest for digest, name in _DIGEST.findall(notes)}
    for file, name, version in _PACKAGE.findall(notes):
        yield Component(
            name=name, version=version, type=ComponentType.LIBRARY, bom_ref=f"script:{name}",
            purl=PackageURL("npm", None, name, version), licenses=[_LICENCES.make_from_string("0BSD")],
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digests[file])],
        )  # fmt: skip


def _viewer() -> Component:
    pin = read_pin()
    scope, _, name = pin.package.rpartition("/")
    digest = base64.b64decode(pin.integrity.removeprefix("sha512-")).hex()
    return Component(
        name=pin.package, version=pin.version, type=ComponentType.APPLICATION, bom_ref="viewer",
        purl=PackageURL("npm", scope, name, pin.version), licenses=[_LICENCES.make_from_string("MIT")],
        hashes=[HashType(alg=HashAlgorithm.SHA_512, content=digest)],
    )  # fmt: skip


def _debian_packages() -> Iterator[Component]:
    """What the launcher installs for the node; with the version that is installed here."""
    named = _DEBIAN.search((REPOSITORY / "hilum").read_text("utf-8"))
    for name in named[1].split() if named else ():
        version = _installed(name)
        yield Component(name=name, version=version, type=ComponentType.LIBRARY, bom_ref=f"debian:{name}",
                        purl=PackageURL("deb", "debian", name, version))  # fmt: skip


def _installed(name: str) -> str | None:
    try:
        asked = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", name], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # another distribution
        return None
    return asked.stdout.strip() or None


def _bundles(own: Path) -> Iterator[Component]:
    for bundle in Registry(REPOSITORY / "models", own).bundles():
        reference = f"bundle:{bundle.name}@{bundle.version}" + ("" if bundle.shipped else ":site")
        made = Component(name=bundle.name, version=bundle.version, type=ComponentType.MACHINE_LEARNING_MODEL,
                         bom_ref=reference)  # fmt: skip
        for file, digest in bundle.digests.items():
            hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest)]
            made.components.add(
                Component(name=file, type=ComponentType.FILE, bom_ref=f"{reference}/{file}", hashes=hashes)
            )
        yield made


if __name__ == "__main__":
    sys.exit(main())
