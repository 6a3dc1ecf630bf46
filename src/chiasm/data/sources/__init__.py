"""Formats that samples are read from, one file each; the folder is the registry."""
