"""One recording in, tracked instances out: what ``stemseg run`` and evaluation share."""
