"""Checkpoints of fairseq's speech models, to and from transformers' classes and the objectives of this package."""
