"""Long runs of the real node: memory over half an hour, and faults that it must survive."""
