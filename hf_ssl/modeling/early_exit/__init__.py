"""Encoders of text, images and speech with exits between their layers, at which rows leave that are certain enough."""
