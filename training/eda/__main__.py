"""``./hilum eda NAME FOLDER``: one HTML page about a data set, with plots, tables and a montage."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from training.data import DataMissing
from training.eda.files import Unread, named
from training.eda.page import render
from training.eda.sections import Options
from training.readers.catalogue import READERS, read_data_set

_FIRST = 5  # files that could not be read, of those named on the terminal


def main(arguments: list[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    defaults = Options()
    parser = argparse.ArgumentParser(prog="./hilum eda", description=__doc__)
    parser.add_argument("name", choices=sorted(READERS))
    parser.add_argument("folder", type=Path, help="where it lies")
    parser.add_argument("--out", type=Path, help="the page (eda-NAME.html)")
    parser.add_argument(
        "--headers", type=_count, default=defaults.headers, help="files whose header is read (%(default)s)"
    )
    parser.add_argument("--images", type=_count, default=defaults.images,
                        help="images opened in search of copies, and masks read, each (%(default)s)")  # fmt: skip
    parser.add_argument("--tiles", type=_count, default=defaults.tiles, help="pictures of the montage (%(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of every sample (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        data = read_data_set(given.name, given.folder, need_images=False)
    except DataMissing as error:
        print(f"hilum: {error}", file=sys.stderr)
        return 1
    out = given.out or Path(f"eda-{given.name}.html")
    unread: Unread = {}
    page = render(data, Options(given.headers, given.images, given.tiles, given.seed), unread)
    out.write_text(page, "utf-8", errors="replace")
    print(
        f"hilum: {out} is written: {len(data.records):,} images, {len(data.left_out):,} rows left out", file=sys.stderr
    )
    if unread:
        first = "".join(f"  {file}: {reason}\n" for file, reason in named(unread)[:_FIRST])
        print(f"hilum: {len(unread):,} files could not be read, the first of them:\n{first}", file=sys.stderr, end="")
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("0 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
