"""Results in a browser page: live from a node, or from a bag. Needs the extra ``view`` (rerun)."""
