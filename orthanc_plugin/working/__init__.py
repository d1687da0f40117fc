"""The processes that read what is due, one that keeps each of them alive, and the comparison with Orthanc.

The rule: any of them may die at any line, and what it had in hand is done again.
"""
