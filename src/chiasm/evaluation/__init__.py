"""Ask a model, score its answers, and show how far to trust the score."""
