"""One job on many pods: a dataset dealt out to shards, shards answered one by one, results merged exactly."""
