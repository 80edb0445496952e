"""What operators see: metrics and their exposition, logs, traces."""
