"""Losses: pure functions on tensors, over any number of processes."""
