"""One file a subject; every rule a small function from facts to findings."""
