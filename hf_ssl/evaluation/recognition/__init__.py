"""From what a CTC model says of each frame to text: decoding with and without language models, and its error rates."""
