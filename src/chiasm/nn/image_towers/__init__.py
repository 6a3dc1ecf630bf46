"""Image towers, one file each; the folder is the registry."""
