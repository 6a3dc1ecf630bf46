"""Strategies of resolution; the folder is the registry."""
