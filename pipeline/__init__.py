"""A table of prompts in, a table of answers out: see README.md."""

__version__ = "0.1.0"
