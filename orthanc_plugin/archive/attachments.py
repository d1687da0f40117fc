"""The attachments that we keep in Orthanc, by the numbers that Orthanc knows them by; its own end at 1023."""

from __future__ import annotations

THUMBNAIL = 1024  # of a measurement report
ANSWER = 1025  # of a study
