"""Choosing, rendering and reading chest radiographs: everything between a DICOM image and its findings."""
