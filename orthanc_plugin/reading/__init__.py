"""From a study to its results: images are taken in and read, results are published, an answer is made.

The rule: one study at a time, and nothing is written to the ledger; the answer goes back to who asked for it.
"""
