"""From results to topics."""
