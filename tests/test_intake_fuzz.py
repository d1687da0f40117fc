"""Five thousand damaged files through one intake process: each ends as an intake or as a refusal with a code.

Every case is made from a number, which the message of a failure gives; ``damaged(number)`` makes it again.
"""

# ruff: noqa: PT017  (either answer may be right)
from __future__ import annotations

import random
import re
import resource
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)
from running_node import SHARED
from tqdm import tqdm
from transfer_syntaxes import SYNTAXES, can_hold, instance, stored_values

from models.intake import Intake, NotTakenIn
from models.refusal import Refusal
from models.selection import Policy
from orthanc_plugin.commands.modality import encode_as
from orthanc_plugin.reading.intake_process import IntakeProcess

CASES = 5000
SECONDS = 20.0  # for one image; generous, for a busy machine must not look like a hang
# Interpreter, libraries and the largest that one case may hold: an inflated file of 160 MB, twice.
MOST_IN_THE_PROCESS = 900 * 2**20
MOST_MORE_HERE = 400 * 2**20  # one image of 64 million pixels, as floats and with its mask of padding
MOST_ENDED = 0.005  # share of cases that may cost the process its life

Mutation = Callable[[bytes, random.Random], bytes]


def written(ds: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


@cache
def pixels(bits: int, *, signed: bool = False) -> npt.NDArray[Any]:
    """A small chest phantom, made once."""
    return stored_values(bits, signed=signed, rows=200, columns=180)


@cache
def seeds() -> tuple[bytes, ...]:
    """A small radiograph in every transfer syntax, one of them with tables, padding and nested sequences."""
    files = []
    for syntax in SYNTAXES:
        bits, signed = (8, False) if not can_hold(syntax, 12, signed=False) else (12, can_hold(syntax, 12, signed=True))
        values = pixels(bits, signed=signed)
        files.append(written(encode_as(instance(values, bits, seed=str(syntax)), syntax)))
    rich = instance(pixels(12), 12, seed="rich")
    del rich.WindowCenter, rich.WindowWidth
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 12])
    table.add_new("LUTData", "OW", struct.pack("<4096H", *range(4096)))
    rich.VOILUTSequence = [table]
    rich.add_new("PixelPaddingValue", "US", 7)
    rich.add_new(0x60003000, "OW", bytes(4500))
    files.append(written(rich))
    return tuple(files)


@cache
def real_seeds() -> tuple[bytes, ...]:
    """Real radiographs from real encoders, where there are any."""
    folder = SHARED / "dicom"
    return tuple(path.read_bytes() for path in sorted(folder.glob("*.dcm"))) if folder.is_dir() else ()


def place(content: bytes, rng: random.Random) -> int:
    """Half of the damage falls on the header, whose few bytes say the most."""
    header = content.rfind(b"\xe0\x7f\x10\x00")
    return rng.randrange(header if rng.random() < 0.5 and header > 200 else len(content))


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(data)


def overwrite(content: bytes, rng: random.Random) -> bytes:
    start, length = place(content, rng), rng.choice((1, 2, 4, 16, 300))
    filling = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    return content[:start] + filling + content[start + length :]


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: place(content, rng)]


def insert(content: bytes, rng: random.Random) -> bytes:
    start = place(content, rng)
    return content[:start] + rng.randbytes(rng.choice((1, 2, 3, 8, 100))) + content[start:]


def duplicate(content: bytes, rng: random.Random) -> bytes:
    start, length = place(content, rng), rng.choice((2, 8, 60, 4000))
    return content[: start + length] + content[start:]


def delete(content: bytes, rng: random.Random) -> bytes:
    start = place(content, rng)
    return content[:start] + content[start + rng.choice((1, 2, 8, 60, 4000)) :]


def swap(content: bytes, rng: random.Random) -> bytes:
    """Two spans change places."""
    a, b = sorted((place(content, rng), place(content, rng)))
    length = rng.choice((4, 32, 500))
    return (
        content[:a]
        + content[b : b + length]
        + content[a + length : b]
        + content[a : a + length]
        + content[b + length :]
    )


_EXTREMES = (0, 1, 0x7F, 0x7FFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def change_length(content: bytes, rng: random.Random) -> bytes:
    """A length field becomes extreme, or undefined."""
    fields = [m.end() for m in re.finditer(rb"(?:AE|AS|CS|DA|DS|IS|LO|PN|SH|TM|UI|US)(?=..)", content[:4000], re.S)]
    long_fields = [m.end() for m in re.finditer(rb"(?:OB|OW|SQ|UN|UT)\0\0", content)]
    items = [m.end() for m in re.finditer(rb"\xfe\xff[\x00\x0d\xdd]\xe0", content)]
    value = rng.choice(_EXTREMES)
    if fields and rng.random() < 0.5:
        at = rng.choice(fields)
        return content[:at] + struct.pack("<H", value & 0xFFFF) + content[at + 2 :]
    at = rng.choice(long_fields + items) if long_fields + items else place(content, rng)
    return content[:at] + struct.pack("<L", value) + content[at + 4 :]


_NUMBERS = {
    "Rows": (0, 1, 95, 199, 201, 8000, 40000, 65535),
    "Columns": (0, 1, 95, 179, 181, 8000, 40000, 65535),
    "BitsAllocated": (0, 1, 8, 12, 16, 32, 64, 65535),
    "BitsStored": (0, 1, 7, 8, 11, 13, 16, 17, 32, 65535),
    "HighBit": (0, 7, 11, 15, 16, 65535),
    "PixelRepresentation": (0, 1, 2, 65535),
    "SamplesPerPixel": (0, 1, 3, 4, 65535),
    "NumberOfFrames": (0, 1, 2, 10_000, 2**31 - 1, -1),
    "PlanarConfiguration": (0, 1, 65535),
}


def tamper_with_the_format(content: bytes, rng: random.Random) -> bytes:
    ds = dcmread(BytesIO(content))
    for keyword in rng.sample(sorted(_NUMBERS), rng.randint(1, 3)):
        setattr(ds, keyword, rng.choice(_NUMBERS[keyword]))
    if rng.random() < 0.2:
        ds.PhotometricInterpretation = rng.choice(["RGB", "PALETTE COLOR", "MONOCHROME1", "YBR_FULL_422", ""])
    return written(ds)


def claim_huge(content: bytes, _: random.Random) -> bytes:
    ds = dcmread(BytesIO(content))
    ds.Rows = ds.Columns = 40000
    return written(ds)


def claim_huge_in_header_and_codestream(content: bytes, rng: random.Random) -> bytes:
    return huge_throughout(content, rng.choice((7990, 8001, 40000)))


def huge_throughout(content: bytes, side: int) -> bytes:
    """The codestream's own header says the same as the instance's."""
    rows, columns = struct.pack(">H", 200), struct.pack(">H", 180)
    content = content.replace(rows + columns, struct.pack(">HH", side, side))  # SOF of JPEG and JPEG-LS
    content = content.replace(struct.pack(">LL", 180, 200), struct.pack(">LL", side, side))  # SIZ of JPEG 2000
    ds = dcmread(BytesIO(content))
    ds.Rows = ds.Columns = side
    return written(ds)


def damage_the_codestream(content: bytes, rng: random.Random) -> bytes:
    start = content.rfind(b"\xe0\x7f\x10\x00")
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 30))):
        near = min(len(data) - 1, start + rng.choice((40, 150, 600)))  # markers come first
        data[rng.randrange(start, near if rng.random() < 0.6 else len(data))] = rng.choice(
            (0, 0xFF, rng.randrange(256))
        )
    return bytes(data)


def claim_another_syntax(content: bytes, rng: random.Random) -> bytes:
    ds = dcmread(BytesIO(content))
    old, new = str(ds.file_meta.TransferSyntaxUID).encode(), str(rng.choice(SYNTAXES)).encode()
    length = struct.pack("<H", len(old) + len(old) % 2)
    field = b"\x02\x00\x10\x00UI" + length + old + b"\0" * (len(old) % 2)
    padded = new + b"\0" * (len(new) % 2)
    return content.replace(field, b"\x02\x00\x10\x00UI" + struct.pack("<H", len(padded)) + padded)


def nest_deeply(content: bytes, rng: random.Random) -> bytes:
    depth, undefined = rng.choice((3, 30, 120, 400, 3000)), rng.random() < 0.5
    start = 132 + 12 + struct.unpack_from("<L", content, 140)[0]
    tag = struct.pack("<HH", 0x0040, 0x0555) + b"SQ\0\0"
    if undefined:
        nested = (tag + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4) * depth
        if rng.random() < 0.5:
            nested += (b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)) * depth
    else:
        nested = b""
        for _ in range(min(depth, 400)):
            item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(nested)) + nested
            nested = tag + struct.pack("<L", len(item)) + item
    return content[:start] + nested + content[start:]


@cache
def bomb() -> bytes:
    """A quarter of a megabyte that inflates to 256 MiB."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    chunk = bytes(2**24)
    head = b"\x28\x00\x10\x00US\x02\x00\xc8\x00" + b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", 2**28)
    return deflate.compress(head) + b"".join(deflate.compress(chunk) for _ in range(16)) + deflate.flush()


def deflate_a_bomb(_: bytes, rng: random.Random) -> bytes:
    content = seeds()[SYNTAXES.index(DeflatedExplicitVRLittleEndian)]
    end_of_meta = 132 + 12 + struct.unpack_from("<L", content, 140)[0]
    return content[:end_of_meta] + bomb()[: rng.choice((len(bomb()), len(bomb()) // 2))]


MUTATIONS: tuple[tuple[Mutation, int], ...] = (
    (flip_bits, 14), (overwrite, 14), (truncate, 6), (insert, 8), (duplicate, 6), (delete, 8), (swap, 6),
    (change_length, 12), (tamper_with_the_format, 8), (claim_huge, 1), (claim_huge_in_header_and_codestream, 3),
    (damage_the_codestream, 16), (claim_another_syntax, 4), (nest_deeply, 2),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One damaged file, and how it came about."""

    number: int
    how: str
    content: bytes


def damaged(number: int) -> Case:
    """The same number always gives the same bytes; every hundredth case is a real radiograph, where there are any."""
    rng = random.Random(number)  # noqa: S311
    real = number % 100 == 99 and bool(real_seeds())
    content = rng.choice(real_seeds() if real else seeds())
    if number % 1000 == 500:
        return Case(number, "deflate_a_bomb", deflate_a_bomb(content, rng))
    kinds, weights = zip(*MUTATIONS, strict=True)
    names = []
    for mutation in rng.choices(kinds, weights, k=rng.choice((1, 1, 1, 2))):
        try:
            content = mutation(content, rng)
        except Exception:  # noqa: BLE001, S112  (pydicom cannot write what was damaged before: the damage so far will do)
            continue
        names.append(mutation.__name__)
    return Case(number, " + ".join(names) + (" of a real file" if real else ""), content)


def peak(pid: int) -> int:
    """Largest resident memory that a process ever had, in bytes (proc(5), VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def pid_of(process: IntakeProcess) -> int | None:
    return None if process._process is None else process._process.pid


def test_every_seed_is_taken_in_before_it_is_damaged() -> None:
    with IntakeProcess(SECONDS) as process:
        for content in seeds():
            assert process.take_in(content, Policy()).image.shape == (200, 180)


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_five_thousand_damaged_files_end_as_intakes_or_coded_refusals(
    record_property: Callable[[str, object], None],
) -> None:
    codes: Counter[str] = Counter()
    ended: list[str] = []
    peaks: dict[int, int] = {}
    slowest = 0.0
    seeds(), bomb()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with IntakeProcess(SECONDS) as process:
        for number in tqdm(range(CASES), disable=None, unit="file"):
            case = damaged(number)
            process.start()
            pid, started = pid_of(process), time.monotonic()
            try:
                taken = process.take_in(case.content, Policy())
            except NotTakenIn as refused:
                assert isinstance(refused.code, Refusal)
                assert str(refused)
                codes[refused.code.value] += 1
            else:
                assert isinstance(taken, Intake), case.number
                assert 0 <= taken.image.pixels.min() <= taken.image.pixels.max() <= 1, (case.number, case.how)
                codes["taken in"] += 1
            slowest = max(slowest, time.monotonic() - started)
            if pid_of(process) != pid:
                ended.append(f"{case.number}: {case.how}")
            elif pid is not None:
                peaks[pid] = peak(pid)
    more_here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    record_property("codes", dict(codes.most_common()))
    record_property("ended", ended)
    record_property("peak_mib", max(peaks.values()) // 2**20)
    record_property("slowest_s", round(slowest, 2))
    assert codes.total() == CASES
    assert len(ended) <= MOST_ENDED * CASES, ended
    assert max(peaks.values()) < MOST_IN_THE_PROCESS
    assert more_here < MOST_MORE_HERE
    assert codes["taken in"] > 0.1 * CASES  # most damage to pixels alone is not noticed, and harmless
    assert {Refusal.UNREADABLE_HEADER, Refusal.UNREADABLE_PIXELS, Refusal.MULTI_FRAME, Refusal.QUALITY} <= set(codes)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLosslessSV1, JPEG2000Lossless])
def test_a_header_of_forty_thousand_rows_and_columns_costs_no_memory(syntax: str) -> None:
    content = seeds()[SYNTAXES.index(syntax)]
    with IntakeProcess(SECONDS) as process:
        process.take_in(content, Policy())
        pid = pid_of(process)
        assert pid is not None
        before = peak(pid)
        for huge in (claim_huge(content, random.Random(2)), huge_throughout(content, 40000)):  # noqa: S311
            assert dcmread(BytesIO(huge)).Rows == 40000
            with pytest.raises(NotTakenIn) as refused:
                process.take_in(huge, Policy())
            assert refused.value.code is Refusal.UNREADABLE_PIXELS
        assert pid_of(process) == pid
        assert peak(pid) - before < 64 * 2**20
