"""What turns a decoder into answers: a cache of keys and values, ways to choose tokens, likelihoods."""
