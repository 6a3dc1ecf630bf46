"""The data path: source -> Sample -> processor -> Batch."""
