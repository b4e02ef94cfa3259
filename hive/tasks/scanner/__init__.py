"""The process that scans files, one at a time, and what it costs at most."""
