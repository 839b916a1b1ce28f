"""What the live pages of a node and of a receiver share: their files, sessions and feed."""
