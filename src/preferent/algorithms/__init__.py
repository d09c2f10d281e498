"""One file for each paper or family: a generator of metrics that yields after each step that can be resumed from."""
