"""Counts, diagnostics, and what is logged about them."""
