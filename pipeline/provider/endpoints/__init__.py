"""One file per kind of endpoint: a pure dialogue that does no I/O and knows no clock, limit or retry."""
