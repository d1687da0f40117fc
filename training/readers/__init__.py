"""Readers of public data sets, each in its own file format: from a raw download to records.

The rule: a reader imports no model library, changes nothing in the download, and says of every row that it leaves out
which one and why.
"""
