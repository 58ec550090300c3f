"""Losses, training clips and the training loop (Sec. 3.4, 4.1, supplement)."""
