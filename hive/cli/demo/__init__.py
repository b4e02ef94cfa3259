"""`hive demo`: the main job on real text and real code, on this machine, without a network."""
