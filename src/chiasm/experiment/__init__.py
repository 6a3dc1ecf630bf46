"""Experiments: recipes, the models that they describe, and their runs."""
