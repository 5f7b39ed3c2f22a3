"""Training a backbone: weights, losses, the loop, checkpoints, cross-fitting."""
