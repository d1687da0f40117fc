"""Networks for other runtimes.

The rule: what is exported answers as torch does, within a stated tolerance, or the export fails and leaves no file.
"""
