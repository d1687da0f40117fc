"""Every figure that is said of a model: with its interval by patient, and beside its shortcut baselines.

The rule: a threshold is chosen on validation patients alone, and a figure that the data do not define raises
`intervals.Undefined` or stands in a table as `intervals.TooFew`; none is ever NaN. Nothing here imports torch.
"""
