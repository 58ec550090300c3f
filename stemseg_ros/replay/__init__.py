"""A bag through the real node: node, player and recorder as processes."""
