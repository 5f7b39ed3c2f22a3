"""Features, logits, views and passes of a trained backbone, into a cache."""
