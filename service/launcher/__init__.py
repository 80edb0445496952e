"""`swan serve`: a private Ray with Ray Serve in it; shows progress, drains on a signal, leaves nothing behind."""
