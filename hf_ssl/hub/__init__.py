"""What leaves the machine: the model card, the push to the Hub, the export of a plain encoder."""
