"""Child processes, and ending with the parent."""
