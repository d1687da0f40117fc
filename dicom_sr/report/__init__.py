"""The preliminary report in words: made from a table of sentences that a site can edit, and read back with it."""
