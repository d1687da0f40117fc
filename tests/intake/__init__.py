"""What the wild sends, by name, and what must become of it: the cases behind ``docs/intake.md``."""
