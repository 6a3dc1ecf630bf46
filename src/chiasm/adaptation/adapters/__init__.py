"""Adapters of a part of a model, one module each."""
