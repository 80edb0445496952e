"""How far every peer that batches may go: rows a batch, and how long the first of them waits for the others."""

MAX_BATCH = 16
MAX_WAIT_S = 0.002
