"""The checks of a diagnosis, one file each; the folder is the registry."""
