"""Around the run of a task in a worker."""
