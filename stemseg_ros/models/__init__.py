"""The models, one package each, and their common layers."""
