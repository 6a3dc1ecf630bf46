"""One experiment: its recipe, what that becomes, and how it is run."""
