"""Where a replica runs: the Ray Serve deployment, set-points over all replicas, or one process without Ray."""
