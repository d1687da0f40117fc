"""Importers of published weights: from a file that its authors publish to a network that a bundle can hold.

The rule: what is imported gives the numbers that its authors' own code gives, or it is refused.
"""
