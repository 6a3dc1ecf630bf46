"""Conventions of boxes in text; the folder is the registry."""
