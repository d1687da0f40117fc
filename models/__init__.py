"""Choosing, rendering and reading chest radiographs: everything between a DICOM image and its findings.

OpenVINO tells its maker of each use, unasked, by a package of its own. Where that cannot be imported it does without:
whoever imports `models`, and everything of Hilum that runs a network does, cannot.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # what the import system takes for "not here"
