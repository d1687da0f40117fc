"""Whether a DICOM object keeps the rules that ``dciodvfy`` does not know; ``check`` is the entry point.

Nothing here knows how our encoder works: every rule is written from the standard, or from the profile, that it cites.
What is ours by agreement is taken from where it is published: our codes (``dicom_sr.codes``), the keys of findings.
"""
