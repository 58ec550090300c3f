"""How a model is run: engines, devices, several streams side by side."""
