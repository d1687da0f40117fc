"""From public data sets to model bundles with their evidence: readers, training, evaluation, export."""
