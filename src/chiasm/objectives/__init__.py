"""Pure functions on tensors: what models are trained to do."""
