"""Hive in containers: an engine of the tests' own, the image, the compose files."""
