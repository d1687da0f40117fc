"""Fixtures that start the real thing, once for the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import PostgresServer, binaries, missing_for_cluster, postgres_server
from running_node import SHARED, Node, running_node

from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "also what makes a Debian 13 in a folder (needs root and debootstrap; ten minutes and 7 GB, once)"
    parser.addoption("--chroot", action="store_true", help=text)
    text = "only what speaks to a whole node, and that on a cluster (./hilum up --cluster) in place of one Orthanc"
    parser.addoption("--cluster", action="store_true", help=text)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--chroot"):
        skipped = pytest.mark.skip(reason="makes a Debian 13, which takes minutes: ./hilum test --chroot -m chroot")
        for item in items:
            if "chroot" in item.keywords:
                item.add_marker(skipped)
    if config.getoption("--cluster"):
        others = [
            item
            for item in items
            if "node_kind" not in item.fixturenames  # type: ignore[attr-defined]
            or item.get_closest_marker("one_orthanc")
        ]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
    # after the others, which share one node
    items.sort(key=_is_on_cluster)


def _is_on_cluster(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("node_kind") == "cluster"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on a cluster instead, or as well where it is marked so."""
    if "node_kind" not in metafunc.fixturenames:
        return
    if metafunc.config.getoption("--cluster"):
        metafunc.parametrize("node_kind", ["cluster"], indirect=True, scope="session")
    elif metafunc.definition.get_closest_marker("cluster"):
        # None: the same as for tests that are not marked, so that they share a node
        kinds = {"default": None, "cluster": "cluster"}
        metafunc.parametrize("node_kind", kinds.values(), ids=kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def node_kind(request: pytest.FixtureRequest) -> str:
    """What a node of a test is: ``default`` (one Orthanc) or ``cluster``."""
    kind = getattr(request, "param", None) or "default"
    if kind == "cluster" and (missing := missing_for_cluster()):
        pytest.skip(f"{missing} is not installed here")
    return str(kind)


@pytest.fixture(scope="session")
def hilum_node(node_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A ready node for the whole session; tests keep apart by using studies of their own."""
    with running_node(node_kind, tmp_path_factory.mktemp("node") / "home") as running:
        yield running


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real radiographs, where there is one."""
    if os.environ.get("HILUM_WITHOUT_SHARED") or not SHARED.is_dir():
        pytest.skip("no real radiographs here: ../shared/data is absent")
    return SHARED


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of a module's own."""
    if binaries() is None:
        pytest.skip("no PostgreSQL server is installed here")
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """A new ledger on each database."""
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    made = open_ledger(tmp_path / "ledger.sqlite") if server is None else open_ledger(server.new_database())
    migrate(made)
    yield made
    made.close()
