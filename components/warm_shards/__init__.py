"""The component `warm_shards`."""
