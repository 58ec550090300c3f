"""Long runs of the real node: memory over half an hour, and the faults that it has to survive."""
