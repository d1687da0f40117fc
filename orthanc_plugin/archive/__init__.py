"""Orthanc's archive: what is asked of it over HTTP, and what we keep in it.

The rule: it says what Orthanc holds, without reading an image or a result; the worker can load it.
"""
