"""One HTML page about a data set before anything is trained on it: ``python -m training.eda NAME FOLDER``.

The rule: what is counted over all records is told apart from what was seen on a sample of their files, and the sample's
size stands beside every number from it.
"""
