"""The models, one package each, and what they share."""
