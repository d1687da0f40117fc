"""A study whose every word is a script, looked at through HTTPS in a real browser: it is shown, and nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from browser import Viewer
from fortress import Callers, fortress, radiograph, store
from pydicom import Dataset
from running_node import Node

from orthanc_plugin.access import accounts
from orthanc_plugin.access.roles import Role
from orthanc_plugin.credentials import Credentials

pytestmark = [
    pytest.mark.node,
    pytest.mark.viewer,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:.*value length"),
]

PASSWORD = "correct horse battery"
# each sets a mark in the page, in another way; short ones fit where DICOM allows 16 characters
SCRIPT = "<img src=x onerror=window.owned=1>\"'><script>window.owned=2</script>"
SHORT = "'\"><svg onload=x>"[:16]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with fortress(tmp_path_factory.mktemp("hostile") / "home") as made:
        accounts.add_user(made.settings.users, "anna", Role.ADMIN, PASSWORD, taken=frozenset())
        yield made


def hostile() -> Dataset:
    ds = radiograph()
    ds.PatientName, ds.PatientID = f"{SCRIPT}^{SCRIPT}"[:64], SCRIPT[:64]
    ds.AccessionNumber = ds.StudyID = SHORT
    ds.StudyDescription = ds.SeriesDescription = ds.ProtocolName = SCRIPT[:64]
    ds.ReferringPhysicianName = ds.PerformingPhysicianName = SCRIPT[:64]
    ds.InstitutionName, ds.ImageComments = SCRIPT[:64], SCRIPT
    ds.PatientComments = ds.AdditionalPatientHistory = SCRIPT
    return ds


def test_no_script_in_an_image_runs_on_any_page(closed: Node, chromium: Callable[[str, Credentials], Viewer]) -> None:
    good, refused = hostile(), hostile()
    refused.Modality = "CT"
    for ds in (good, refused):
        assert store(closed, Callers(closed.settings.home).neighbour(), ds)
    uids = [str(ds.StudyInstanceUID) for ds in (good, refused)]
    rows = [closed.wait_for(uid, 90) for uid in uids]
    assert rows[0]["status"] == "done"
    url = f"https://localhost:{closed.settings.https_port}"
    with chromium(url, Credentials("anna", PASSWORD, "-", "-")) as viewer:
        page, dialogs = viewer.page, []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        paths = ["/hilum/", "/hilum/admin", *(f"/hilum/studies/{uid}" for uid in uids)]
        paths += [f"/hilum/studies/{uids[0]}/documents/{report}" for report in reports(closed, uids[0])]
        for path in paths:
            page.goto(f"{url}{path}")
            page.wait_for_load_state("networkidle")
            assert page.evaluate("window.owned") is None, path
            assert page.locator("svg[onload], img[onerror]").count() == 0, path
        page.goto(f"{url}/hilum/")
        assert "<img src=x onerror" in page.locator("main, body").first.inner_text(), "it is shown as it is"
        viewer.open_study(uids[0])
        assert viewer.panes()[0]["picture"]
        assert page.evaluate("window.owned") is None
        assert dialogs == []
        assert viewer.foreign_requests() == []
        assert [said for said in viewer.console if "Content Security Policy" in said] == []


def reports(closed: Node, uid: str) -> list[str]:
    return [i["00080018"]["Value"][0] for i in closed.series(uid, "SR")]
