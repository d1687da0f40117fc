"""``./hilum bench NAME``: times parts of the node against named baselines, in one run."""

from __future__ import annotations

import argparse

from tests.bench import decoders, encode, intake


def main() -> None:
    """Run the comparisons of one part."""
    parser = argparse.ArgumentParser(prog="./hilum bench", description=__doc__)
    parser.add_argument("name", choices=["intake", "encode"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.name == "encode":
        encode.compare(options.rounds)
    else:
        intake.compare(options.rounds)
        decoders.compare(options.rounds)


if __name__ == "__main__":
    main()
