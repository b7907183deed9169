"""The component `generate_shards`."""
