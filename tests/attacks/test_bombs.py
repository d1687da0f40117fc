"""Small messages that become large: deflated data sets, claimed sizes, nested sequences, archives; on a real node."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fortress import NEIGHBOUR, associate, radiograph
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AE
from running_node import Node, start_node

from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import ANYBODY
from orthanc_plugin.credentials import load_credentials

pytestmark = pytest.mark.node

_MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def bombed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    settings, _process = start_node(tmp_path_factory.mktemp("bombed") / "home")
    try:
        credentials = load_credentials(settings.credentials)
        with node.http(settings, credentials) as client:
            yield Node(settings, credentials, client)
    finally:
        node.stop(settings)


@pytest.fixture(autouse=True)
def as_before(bombed: Node) -> Iterator[None]:
    """Afterwards Orthanc is the same process, and the next radiograph is read."""
    pid = node.running_pid(bombed.settings)
    yield
    assert node.running_pid(bombed.settings) == pid
    ds = radiograph()
    assert sent(bombed, ds)
    assert bombed.wait_for(str(ds.StudyInstanceUID))["status"] == "done"


def sent(bombed: Node, ds: Dataset) -> bool:
    settings = bombed.settings
    (outcome,) = modality.send([ds], "127.0.0.1", settings.dicom_port, settings.ae_title)
    return outcome.accepted


def peak(bombed: Node) -> float:
    """MiB of memory that Orthanc ever had in hand."""
    return _of_status(bombed, "VmHWM:")


def _of_status(bombed: Node, name: str) -> float:
    status = Path(f"/proc/{node.running_pid(bombed.settings)}/status").read_text()
    return int(status.partition(name)[2].split()[0]) / 1024


def raw_store(bombed: Node, ds: Dataset, syntax: str, content: bytes) -> int | None:
    """Send bytes as the data set of a C-STORE; the status, or None where the association ended."""
    import pynetdicom.dimse_primitives as dimse

    entity = AE(ae_title=NEIGHBOUR)
    entity.add_requested_context(ds.SOPClassUID, [syntax])
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 60
    association = associate(entity, bombed, ANYBODY)
    if not association.is_established:  # type: ignore[attr-defined]
        return None
    request = dimse.C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    request.DataSet = io.BytesIO(content)
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)  # type: ignore[attr-defined]
    _, answer = association.dimse.get_msg(True)  # type: ignore[attr-defined]
    association.abort()  # type: ignore[attr-defined]
    return None if answer is None else int(answer.Status)


def element(tag: tuple[int, int], vr: bytes, length: int) -> bytes:
    return struct.pack("<HH", *tag) + vr + b"\0\0" + struct.pack("<I", length)


def header(ds: Dataset) -> bytes:
    """The data set without its pixels, explicit little endian."""
    from pynetdicom.dsutils import encode

    bare = Dataset(ds)
    del bare.PixelData
    found = encode(bare, False, True)
    assert found is not None
    return found


def deflated(start: bytes, zeros: int) -> bytes:
    """Raw deflate (PS3.5 A.5) of a start and so many bytes of zero, without having them."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = [packer.compress(start)]
    packed += [packer.compress(bytes(_MEBIBYTE)) for _ in range(zeros // _MEBIBYTE)]
    packed.append(packer.flush())
    content = b"".join(packed)
    return content + b"\0" * (len(content) % 2)


def test_a_deflated_data_set_of_two_gigabytes_is_not_taken(bombed: Node) -> None:
    ds = radiograph()
    bomb = deflated(header(ds) + element((0x7FE0, 0x0010), b"OW", 2000 * _MEBIBYTE), 2000 * _MEBIBYTE)
    assert len(bomb) < 3 * _MEBIBYTE
    before = peak(bombed)
    assert raw_store(bombed, ds, DeflatedExplicitVRLittleEndian, bomb) is None, "no such transfer syntax is accepted"
    assert peak(bombed) - before < 100, "MiB"
    assert bombed.row(str(ds.StudyInstanceUID)) is None


@pytest.mark.parametrize("length", [0xFFFFFFFE, 0x7FFFFFFE])
def test_a_length_that_is_only_claimed_takes_no_memory(bombed: Node, length: int) -> None:
    """Orthanc waits for the rest until it gives up (30 s)."""
    ds, before = radiograph(), peak(bombed)
    raw_store(bombed, ds, ExplicitVRLittleEndian, header(ds) + element((0x7FE0, 0x0010), b"OW", length) + bytes(1000))
    assert peak(bombed) - before < 100, "MiB"


@pytest.mark.parametrize(
    ("rows", "columns", "frames"),
    [(65535, 65535, 1), (65535, 65535, 2**31 - 1), (1024, 1024, 1_000_000), (65535, 1, 1), (0, 0, 1)],
)
def test_a_picture_whose_size_is_only_claimed_is_refused_with_a_reason(
    bombed: Node, rows: int, columns: int, frames: int
) -> None:
    ds = radiograph()
    ds.Rows, ds.Columns, ds.NumberOfFrames = rows, columns, frames
    ds.PixelData = bytes(1000)
    assert sent(bombed, ds)
    row = bombed.wait_for(str(ds.StudyInstanceUID), 90)
    assert row["status"] in ("not_processed", "quarantined"), row
    assert row["status_reason" if "status_reason" in row else "reason"]


def test_a_compressed_picture_of_a_gigapixel_is_refused_within_the_memory_of_a_reader(bombed: Node) -> None:
    """A JPEG 2000 codestream of a few bytes, whose head claims 60,000 x 60,000 pixels of 16 bits."""
    ds = radiograph()
    siz = struct.pack(">HHIIIIIIIIH", 41, 0, 60_000, 60_000, 0, 0, 60_000, 60_000, 0, 0, 1) + bytes([15, 1, 1])
    cod = bytes.fromhex("ff52000c00000001000504040000")
    qcd = bytes.fromhex("ff5c0013604048485048485048485048485048485058")[:21]
    sot = bytes.fromhex("ff90000a0000000000000001ff93") + b"\0" * 64
    stream = b"\xff\x4f\xff\x51" + siz + cod + qcd + sot + b"\xff\xd9"
    ds.Rows = ds.Columns = 60_000
    ds.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2)])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    assert sent(bombed, ds)
    assert bombed.wait_for(str(ds.StudyInstanceUID), 120)["status"] in ("not_processed", "quarantined")


def test_sequences_nested_ten_thousand_deep_end_their_association_alone(bombed: Node) -> None:
    ds = radiograph()
    nested = b"".join(
        element((0x0040, 0xA730), b"SQ", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        for _ in range(10_000)
    )
    raw_store(bombed, ds, ExplicitVRLittleEndian, header(ds) + nested)


def test_an_archive_that_unpacks_to_gigabytes_is_refused_to_who_may_not_store_and_bounded_to_who_may(
    bombed: Node,
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("bomb.dcm", "w") as member:
        for _ in range(1000):
            member.write(bytes(_MEBIBYTE))
    anonymous = bombed.http.post("/instances", content=packed.getvalue(), auth=("nobody", "x"))
    assert anonymous.status_code == 403
    before = peak(bombed)
    assert bombed.http.post("/instances", content=packed.getvalue(), timeout=120).status_code in (200, 400)
    print(f"an archive of {len(packed.getvalue()) / _MEBIBYTE:.1f} MiB took {peak(bombed) - before:.0f} MiB")  # noqa: T201
    assert peak(bombed) - before < 3000, "MiB: an administrator may; see docs/security.md"
