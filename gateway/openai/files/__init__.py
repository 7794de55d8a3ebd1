"""Files that clients keep here, for batches."""
