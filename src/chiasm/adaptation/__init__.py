"""What changes a trained model without training it: weights of several made into those of one."""
