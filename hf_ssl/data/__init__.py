"""What an objective is fed: loading, decoding, checking, collating and the embedded samples."""
