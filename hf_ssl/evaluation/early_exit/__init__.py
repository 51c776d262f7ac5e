"""Early exit measured: what each exit says of stored items, thresholds with a guarantee, and score against speed."""
