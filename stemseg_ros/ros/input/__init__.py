"""From image messages to frames."""
