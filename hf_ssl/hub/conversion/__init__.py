"""Checkpoints of fairseq's speech models and published image backbones, to and from transformers and this package."""
