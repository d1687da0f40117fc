"""What a finished run is worth: the figures that its recipe names, on patients who had no part in it.

The rule: what is chosen (thresholds, calibration) is chosen on the validation records, what is told is measured on the
test records, and what is judged is what is packaged.
"""
