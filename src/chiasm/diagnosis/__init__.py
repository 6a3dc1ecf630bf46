"""What a recipe's data, model and settings hold, looked at before anything is trained: `chiasm doctor`, `chiasm show`.

One pass over the data; all checks look on. A check is one file in `checks/`; the folder is the registry."""
