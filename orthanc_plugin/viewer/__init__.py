"""The viewer: OHIF as published, re-based below ``/ohif/``, and our configuration of it.

``prepare`` makes the files once, ``serving`` answers requests for them, ``app-config/`` is what we add to OHIF.
"""
