"""Protocol-free logic of an inference request: contract, validation, data plane, statistics, repository."""
