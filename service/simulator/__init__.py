"""A seeded discrete-event simulator of one replica that runs the shipped policy classes against recorded-like load."""
