"""Evaluation: tasks, requests to a model, metrics of its responses with intervals and baselines, and the report."""
