"""How ``./hilum up`` waits for its node: calmly, and sure that it lets no stranger in."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orthanc_plugin.commands import node
from orthanc_plugin.settings import Settings, load_settings

STRANGERS = ("/instances", "/dicom-web/studies")


@dataclass
class Answering:
    """A server in the place of a node, and what it was asked."""

    settings: Settings
    process: subprocess.Popen[bytes]
    state: str = "impaired"
    to_strangers: int = 403
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            it.asked.append(self.path)
            known = self.path == "/hilum/api/status" and "Authorization" in self.headers
            body = json.dumps({"state": it.state, "problems": []}).encode() if known else b""
            self.send_response(200 if known else it.to_strangers)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = load_settings({"HILUM_HOME": str(tmp_path), "HILUM_HTTP_PORT": str(server.server_port)})
    process = subprocess.Popen(["sleep", "60"])
    identity = {"pid": process.pid, "started": node._start_ticks(process.pid)}
    (tmp_path / "node.json").write_text(json.dumps(identity))
    it = Answering(settings, process)
    yield it
    process.kill()
    process.wait()
    server.shutdown()
    server.server_close()


def test_an_impaired_node_is_asked_calmly_and_as_a_stranger_once(answering: Answering) -> None:
    with pytest.raises(node.NodeFailed, match="no worker was ready"):
        list(node.wait_until_ready(answering.settings, answering.process, seconds=4.5))
    assert [answering.asked.count(path) for path in STRANGERS] == [1, 1]
    assert answering.asked.count("/hilum/api/status") <= 4, "and once more for the message"


def test_a_node_that_lets_a_stranger_in_is_not_started(answering: Answering) -> None:
    answering.state, answering.to_strangers = "ready", 200
    with pytest.raises(node.NodeFailed, match="without a log-in"):
        list(node.wait_until_ready(answering.settings, answering.process, seconds=5))


def test_a_ready_node_is_ready_at_once(answering: Answering) -> None:
    answering.state = "ready"
    assert list(node.wait_until_ready(answering.settings, answering.process, seconds=5)) == ["ready"]
    assert [answering.asked.count(path) for path in STRANGERS] == [1, 1]
