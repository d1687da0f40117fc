"""The process of a worker that speaks with a Ray cluster: it keeps reading actors there, and hands studies to them.

The rule: it joins a cluster and never starts one. It holds nothing that the ledger does not hold, so it may die at any
line, as it does when its node or the head dies; its actors end with it. What is said on its connection is ``ray_link``.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from orthanc_plugin.child_process import settle
from orthanc_plugin.logs import start_logging
from orthanc_plugin.settings import SettingsInvalid, load_settings
from orthanc_plugin.working.ray_actors import Actors, ReadBack
from orthanc_plugin.working.reader import line_of
from orthanc_plugin.working.reading_actor import ReadingActor

log = logging.getLogger("hilum.ray")

_GCS_SECONDS = 10  # for which Ray tries to reach a head that is away; then it ends this process
_TEND_SECONDS = 0.5
_MISSING = (
    'executor = "ray": Ray is not installed. ./hilum installs it, or pip install --no-deps -r requirements-ray.lock'
)


def environment_of(address: str) -> dict[str, str]:
    """What Ray reads from the environment as it is imported."""
    found = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(_GCS_SECONDS),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # without a GPU of its own an actor sees none
    }
    # as Ray calls it: off means that loopback is left to be loopback, on any system
    return {**found, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if address.startswith("127.0.0.1:") else found


class Driver:
    """Both sides: lines of the worker, and the actors of the cluster."""

    def __init__(self, channel: socket.socket, actors: Actors) -> None:
        self._channel, self._actors, self._lock = channel, actors, threading.Lock()

    def run(self) -> None:
        """Serve until the worker has gone."""
        threading.Thread(target=self._tend, name="actors", daemon=True).start()
        with self._channel.makefile("rb") as lines, suppress(ConnectionError):
            for line in lines:
                self._take(json.loads(line))

    def _take(self, message: Mapping[str, Any]) -> None:
        if "task" in message:
            threading.Thread(target=self._attend, args=[message["key"], message["task"]], daemon=True).start()
        elif "wanted" in message:
            self._actors.want(int(message["wanted"]))
        elif "stop" in message:
            self._actors.condemn(message["stop"])
        elif "renew" in message:
            self._actors.renew(int(message["renew"]))

    def _attend(self, key: str, task: Mapping[str, Any]) -> None:
        """Have one study read, and say what comes of it."""
        try:
            for message in self._actors.read(key, task):
                self._say({**message, "key": key})
        except ReadBack:
            self._say({"key": key, "back": True})
        except Exception:  # a study must be answered, whatever Ray does
            log.exception("an actor cannot be asked")
            self._say({"key": key, "back": True})

    def _tend(self) -> None:
        """Keep as many actors as are wanted; say how many there are, and that the cluster answers."""
        places: Mapping[str, Any] = {}
        try:
            while True:
                for message in (*self._actors.tend(), {"alive": True}):
                    if message != places:
                        self._say(message)
                    places = message if "places" in message else places
                time.sleep(_TEND_SECONDS)
        except ConnectionError:
            pass  # the worker has gone
        except Exception as error:  # noqa: BLE001  the cluster does not answer: whoever started this starts it again
            log.error("the cluster does not answer (%s)", type(error).__name__)
        os._exit(1)

    def _say(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            self._channel.sendall(line_of(message))


def main(actor: type[ReadingActor] = ReadingActor) -> int:
    """Join the cluster, and read what comes."""
    descriptor = int(sys.argv[1])
    settle(descriptor)
    start_logging()
    channel = socket.socket(fileno=descriptor)
    try:
        settings = load_settings()
    except SettingsInvalid as error:
        log.error("%s", error)
        return 2
    os.environ |= {**environment_of(settings.ray_address), **os.environ}
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())  # to which Ray writes what is no line of a log
    try:
        import ray
    except ImportError:
        log.error(_MISSING)
        return 2
    try:
        ray.init(settings.ray_address, namespace="hilum", log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001  Ray raises what it likes; the worker says that the cluster is away
        log.error("no Ray cluster answers at ray_address: %s", str(error).partition("\n")[0][:200])
        return 1
    log.info("joined the Ray cluster", extra={"pid": os.getpid()})
    # an actor needs no database, and what it gets can be read by whoever can ask Ray
    bare = replace(settings, ledger_url="", index_url="", proxy_secret="")
    with channel:
        Driver(channel, Actors(ray, actor, bare)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
