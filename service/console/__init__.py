"""The console: one self-contained page and the JSON it polls."""
