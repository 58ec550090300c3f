"""Models, one package each, and the layers that they share."""
