"""The budget law: pure decisions, standard library only, clock injected. The scheduler is the loop around it."""
