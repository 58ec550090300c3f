"""Two models in one tracker: a detector, and a follower that bridges gaps in its tracks."""
