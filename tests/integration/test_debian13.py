"""What docker/ describes, run on Debian 13, its Orthanc and its Python, without an engine; only with ``--chroot``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import debian13
import httpx
import pytest
from debian13 import DOCKER, Chroot
from pods import USER, Stack, database, networks, wait
from running_node import Node
from test_docker import services

from models.phantom import chest
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import REPOSITORY, load_settings

pytestmark = [pytest.mark.node, pytest.mark.chroot, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def chroot() -> Chroot:
    """A Debian 13 with what the images install, in ``HILUM_CHROOT`` or in the cache, where it is kept."""
    if why := debian13.can_be_made():
        pytest.skip(why)
    made = Chroot(Path(os.environ.get("HILUM_CHROOT", REPOSITORY / ".cache/debian13")).resolve())
    made.make()
    return made


def secrets_for(folder: Path, *names: str) -> Path:
    shutil.copy(DOCKER / "make-secrets", folder)
    subprocess.run([folder / "make-secrets", *names], check=True)
    return folder


def client(made: Path, address: str, credentials_file: Path) -> tuple[httpx.Client, Node]:
    """How a program of another machine speaks to a stack: by TLS, trusting the site's authority."""
    file = made / f"own-{uuid.uuid4().hex}.json"
    shutil.copy(credentials_file, file)
    file.chmod(0o600)
    credentials = load_credentials(file)
    trusted = ssl.create_default_context(cafile=str(made / "secrets/ca.crt"))
    auth = (credentials.user, credentials.password)
    http = httpx.Client(base_url=f"https://{address}:8443", auth=auth, verify=trusted, trust_env=False, timeout=30.0)
    return http, Node(load_settings({"HILUM_HOME": str(made)}), credentials, http)


def send(address: str, seed: int = 1) -> str:
    ds = modality.radiograph(chest(seed).pixels, Exposure(seed=uuid.uuid4().hex))
    (sent,) = modality.send([ds], address, 4242, "HILUM")
    assert sent.accepted, sent
    return str(ds.StudyInstanceUID)


def results(at: Node, study: str) -> tuple[int, int, int]:
    return len(at.measurement_reports(study)), len(at.series(study, "SEG")), len(at.preliminary_reports(study))


@pytest.fixture(scope="module")
def single(chroot: Chroot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Node, str]]:
    """The profile ``single``; how to speak to it, and where."""
    folder = tmp_path_factory.mktemp("single")
    with ExitStack() as ends:
        addresses = ends.enter_context(networks(["pod"]))
        made = secrets_for(folder, addresses["pod"])
        stack = Stack(chroot, services("single")["services"], made, addresses, folder)
        ends.callback(stack.stop)
        try:
            site = stack.volume("home") / "hilum.toml"  # server and worker share it
            site.write_text("[labels]\n")
            os.chown(site, USER, USER)
            for name in ("server", "proxy", "worker"):
                stack.start(name, HILUM_QUIET_SECONDS="0.5")
                wait(lambda name=name: stack.is_healthy(name), f"the {name}")  # type: ignore[misc]
        except BaseException:
            print(stack.logs())  # noqa: T201
            raise
        http, running = client(made, addresses["pod"], stack.volume("home") / "credentials.json")
        ends.enter_context(http)
        yield stack, running, addresses["pod"]


def test_it_is_debian_13_with_its_orthanc_and_its_python(single: tuple[Stack, Node, str]) -> None:
    stack, running, _ = single
    assert (stack.chroot.root / "etc/debian_version").read_text().startswith("13")
    assert stack.chroot.said("/srv/server/bin/python3", "--version").startswith("Python 3.13")
    assert running.http.get("/system").json()["Version"].startswith("1.12.")
    assert running.http.get("/plugins/python").json()["Version"].startswith("5.")


def test_a_study_sent_by_c_store_gets_a_report_and_a_segmentation(single: tuple[Stack, Node, str]) -> None:
    _, running, address = single
    study = send(address)
    row = running.wait_for(study, 120)
    assert row["status"] == "done"
    assert results(running, study) == (1, 1, 1)
    (image,) = row["images"]
    assert running.http.get(image["thumbnail"]).headers["content-type"] == "image/jpeg"


def labels_of(at: Node, study: str) -> set[str]:
    (found,) = at.http.post("/tools/lookup", content=study).json()
    return set(at.http.get(f"/studies/{found['ID']}/labels").raise_for_status().json())


def test_studies_get_labels_and_keep_those_of_others(single: tuple[Stack, Node, str]) -> None:
    _, running, address = single
    study = send(address)
    running.wait_for(study, 120)
    running.wait(lambda: "ai-read" in labels_of(running, study), "its labels", 30)
    (found,) = running.http.post("/tools/lookup", content=study).json()
    for label in ("teaching", "ai-refused"):  # somebody else's; and one of ours that does not hold
        running.http.put(f"/studies/{found['ID']}/labels/{label}").raise_for_status()
    running.http.post(
        "/hilum/api/reread", data={"study_instance_uid": study}, headers={"X-Requested-With": "test"}
    ).raise_for_status()
    running.wait(lambda: labels_of(running, study) == {"ai-read", "teaching"}, "its labels once more", 60)
    refused = modality.radiograph(chest(2).pixels, Exposure(seed=uuid.uuid4().hex, view="LL"))
    (sent,) = modality.send([refused], address, 4242, "HILUM")
    assert sent.accepted
    uid = str(refused.StudyInstanceUID)
    running.wait_for(uid, 120)
    running.wait(lambda: labels_of(running, uid) == {"ai-refused"}, "the label of a refused study", 30)


def test_orthanc_answers_its_pod_alone_and_people_by_tls(single: tuple[Stack, Node, str]) -> None:
    stack, running, address = single
    with pytest.raises(httpx.TransportError):  # an authority that nobody named is not trusted
        httpx.get(f"https://{address}:8443/hilum/login", trust_env=False)
    with httpx.Client(trust_env=False) as stranger:
        for path in ("/hilum/login", "/system", "/dicom-web/studies"):
            assert stranger.get(f"http://{address}:8042{path}").status_code in (401, 403), path
    for path in ("/hilum/", "/hilum/admin"):
        assert "not a medical device" in running.http.get(path).text
    page = httpx.Client(base_url=running.http.base_url, verify=running_context(stack), trust_env=False)
    with page:
        assert page.get("/system").status_code == 403
        form = {"name": running.credentials.user, "password": running.credentials.password, "next": "/hilum/"}
        origin = {"Origin": str(running.http.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
        entered = page.post("/hilum/login", data=form, headers=origin)
        assert entered.status_code == 303, entered.text
        assert "Secure" in entered.headers["set-cookie"]
    said = stack.addresses[""]
    wait(
        lambda: ("log_in", said) in audited(stack.volume("home") / "audit"),
        "the log-in in the audit log, with who asked and not the proxy",
        5,
    )
    assert {address for _, address in audited(stack.volume("home") / "audit")} == {said}


def audited(folder: Path) -> set[tuple[str, str]]:
    """What was done, and from where, as the audit log has it."""
    entries = [json.loads(line) for file in folder.glob("*.log") for line in file.read_text().splitlines()]
    return {(entry["action"], entry["address"]) for entry in entries}


def running_context(stack: Stack) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(stack.folder / "secrets/ca.crt"))


def test_what_is_written_lies_in_the_volume_and_is_nobody_elses(single: tuple[Stack, Node, str]) -> None:
    home = single[0].volume("home")
    written = list(home.rglob("*"))
    assert {file.stat().st_uid for file in written} == {USER}
    assert not (home / "log/worker.log").exists(), "a worker by itself logs to its own output"
    private = ("credentials.json", "orthanc.json", "archive-id")
    assert [name for name in private if (home / name).stat().st_mode & 0o077] == []


def test_two_orthancs_behind_one_entrance_lose_nothing_when_one_dies(
    chroot: Chroot, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as ends:
        addresses = ends.enter_context(networks(["pod-a", "pod-b", "entrance", "reader"]))
        addresses["postgres"] = addresses[""]
        made = secrets_for(folder, addresses["entrance"])
        ends.enter_context(database(made, addresses[""]))
        stack = Stack(chroot, services("cluster")["services"], made, addresses, folder)
        ends.callback(stack.stop)
        try:
            for name in ("server-a", "server-b", "proxy-a", "proxy-b", "entrance", "reader"):
                stack.start(name, HILUM_QUIET_SECONDS="0.5", HILUM_LEASE_SECONDS="3")
                wait(lambda name=name: stack.is_healthy(name), f"the {name}")  # type: ignore[misc]
            http, running = client(made, addresses["entrance"], made / "secrets/credentials.json")
            ends.enter_context(http)
            for pod in ("pod-a", "pod-b", "entrance"):
                study = send(addresses[pod])
                assert running.wait_for(study, 120)["status"] == "done"
                assert results(running, study) == (1, 1, 1)
            studies = [send(addresses["entrance"], seed) for seed in range(2, 5)]
            mark = "/modalities/MARK"  # known to nobody but the Orthanc that is asked: one address, one Orthanc
            running.http.put(mark, json={"AET": "MARK", "Host": "127.0.0.1", "Port": 104}).raise_for_status()
            known = {
                home: running.http.get(
                    f"https://{addresses[pod]}:8443{mark}/configuration", extensions={"sni_hostname": "hilum"}
                ).status_code
                for home, pod in (("home-a", "pod-a"), ("home-b", "pod-b"))
            }
            (asked,) = [home for home, status in known.items() if status == 200]
            os.kill(json.loads((stack.volume(asked) / "node.json").read_text())["pid"], signal.SIGKILL)
            studies += [send(addresses["entrance"], seed) for seed in range(5, 7)]
            for study in studies:
                assert running.wait_for(study, 180)["status"] == "done"
                assert results(running, study) == (1, 1, 1)
            assert {address for _, address in audited(stack.volume("audit"))} == {addresses[""]}, "who asked, no proxy"
            worker = stack.volume("reader")
            assert "password" not in (worker / "credentials.json").read_text().replace("worker_password", "")
        except BaseException:
            print(stack.logs())  # noqa: T201
            raise
