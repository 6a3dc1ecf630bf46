"""Pure functions on tensors: what models are trained to do, and how several processes compute it together."""
