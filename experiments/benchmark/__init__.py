"""Time and memory of all that users wait for: see __main__.py, and a module for each part of it."""
