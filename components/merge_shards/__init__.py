"""The component `merge_shards`."""
