"""Objectives that learn from speech, one file each."""
