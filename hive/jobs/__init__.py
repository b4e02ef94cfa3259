"""Map-reduce over the hive: `map` and `job` (a chord of pullers; docs: map)."""
