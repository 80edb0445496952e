"""From an accepted request to its answer: EDF queues, batches formed at dispatch, one worker thread a core."""
