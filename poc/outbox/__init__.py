"""What must not be lost: callbacks and the journal of rounds, in SQLite, and their delivery."""
