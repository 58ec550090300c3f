"""From frames to results: the worker, its supervisor, the cameras."""
