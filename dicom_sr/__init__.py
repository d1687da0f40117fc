"""Results of AI as DICOM objects that any PACS accepts: a Structured Report (TID 1500) and a Segmentation.

Import what you need from its modules; this file stays empty so that Orthanc's process can load ``dicom_sr.ownership``
without highdicom.
"""
