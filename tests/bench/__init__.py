"""Measurements: what is compared is compared in one run, in turns."""
