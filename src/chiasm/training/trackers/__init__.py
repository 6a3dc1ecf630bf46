"""Trackers that a recipe can choose; one module each."""
