"""Metrics of texts against reference texts, one file each; none knows a model or a task."""
