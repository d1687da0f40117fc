"""The reading worklist: from ledger rows to rows for people (pure functions) to HTML."""
