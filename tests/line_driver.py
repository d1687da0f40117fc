"""Stands for the process that speaks with Ray, where there is none; started by tests of the worker's side.

It says that two studies can be read, and answers each as its name says: ``ok``, ``back``, ``garbage``, ``never``, or
dies of it (``die``). What it hears is written to the file ``heard`` of ``FAULTS``.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orthanc_plugin.child_process import settle

COMMAND = (sys.executable, str(Path(__file__).resolve()))
OUTCOME = {"status": "done", "priority": "none", "priority_rank": 3, "result": {"images": []}}


def say(channel: socket.socket, message: object) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


def main() -> None:
    settle(int(sys.argv[1]))
    channel, folder = socket.socket(fileno=int(sys.argv[1])), Path(os.environ["FAULTS"])
    with (folder / "started").open("a") as started:
        started.write(f"{os.getpid()}\n")
    if (folder / "silent").exists():
        time.sleep(600)
    if (folder / "away").exists():
        sys.exit(1)
    channel.sendall(b"\xff no message\n")
    say(channel, {"alive": True})
    say(channel, {"places": 2, "versions": {"lungs": "1.0"}, "renewed": 0})
    with channel.makefile("rb") as lines:
        for line in lines:
            with (folder / "heard").open("ab") as heard:
                heard.write(line)
            message = json.loads(line)
            if "renew" in message:
                say(channel, {"places": 2, "versions": {"lungs": "of before"}, "renewed": message["renew"] - 1})
                say(channel, {"places": 2, "versions": {"lungs": "2.0"}, "renewed": message["renew"]})
            if "task" not in message:
                continue
            key, fault = message["key"], message["task"]["study_instance_uid"].partition(".")[0]
            if fault == "ok":
                say(channel, {"key": key, "flag": {"priority": "critical", "priority_rank": 0, "message": "why"}})
                say(channel, {"key": key, "outcome": OUTCOME})
            elif fault == "back":
                say(channel, {"key": key, "back": True})
            elif fault == "garbage":
                say(channel, {"key": key, "outcome": {"nonsense": 1}})
            elif fault == "die":
                os._exit(3)


if __name__ == "__main__":
    main()
