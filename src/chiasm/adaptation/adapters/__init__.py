"""Ways to adapt a part of a model by few tensors, one module each."""
