"""Counts, diagnostics, and their log lines."""
