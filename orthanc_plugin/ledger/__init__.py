"""The ledger: one task for each study in SQLite or PostgreSQL, and what is noted beside the tasks.

The rule: it knows tasks and their states, and nothing of Orthanc, of images or of models.
"""
