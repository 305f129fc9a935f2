"""What the archive keeps of a partition, what its loss looks like, and what a rebuild decides. Pure."""
