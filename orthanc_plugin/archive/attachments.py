"""The attachments that we keep in Orthanc, by the numbers that Orthanc knows them by; its own end at 1023."""

from __future__ import annotations

THUMBNAIL = 1024  # of a measurement report
ANSWER = 1025  # of a study
PICTURE = 1026  # of a measurement report, as are the next two: the radiograph, and what is laid over it
OUTLINES = 1027
HEAT_MAP = 1028
LAYERS = {"picture": PICTURE, "outlines": OUTLINES, "heat_map": HEAT_MAP}
