"""A job in shards as an Indexed Job of Kubernetes: beyond what Kubeflow's loops can carry."""
