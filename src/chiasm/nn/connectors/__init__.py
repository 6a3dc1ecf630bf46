"""Connectors; the folder is the registry."""
