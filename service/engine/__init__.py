"""Models in a process of their own, beside the one that answers requests.

The event loop and a model's Python share one interpreter lock otherwise. Under load the loop always wants it, and a
forward pass asks for it at each of its hundred operations: measured at a saturated loop, a batch took ten times as
long, and both together never used more than one core (docs/adr/0005-model-process.md).
"""
