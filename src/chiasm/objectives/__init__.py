"""What a model is trained to do: one file an objective, which a recipe chooses with `objective: {objective: NAME}`."""
