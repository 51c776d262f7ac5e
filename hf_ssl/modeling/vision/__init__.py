"""Objectives that learn from images, one file each."""
