"""Objectives that learn from text, one file each."""
