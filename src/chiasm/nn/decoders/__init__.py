"""Language models by architecture; the folder is the registry."""
