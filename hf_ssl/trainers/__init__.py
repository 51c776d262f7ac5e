"""How it is learned: pretraining, fine-tuning, and the clustering of speech between two rounds of pretraining."""

from hf_ssl.trainers.finetuned import load_finetuned

__all__ = ["load_finetuned"]
