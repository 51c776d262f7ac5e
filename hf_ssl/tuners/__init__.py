"""Parameter-efficient tuning: what PEFT lacks for the encoders of every modality."""
