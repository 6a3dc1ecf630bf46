"""Changes to a built model: adapters, and blends of the weights of two models."""
