"""The models: one package each, and the layers that they share."""
