"""What is looked for, one file each; the folder is the registry."""
