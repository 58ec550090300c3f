"""Scores of results against ground truth, and their report."""
