"""Processing of one recording, shared by ``stemseg run`` and evaluation."""
