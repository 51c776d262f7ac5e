"""A smaller encoder that learns from a larger one of the same family."""
