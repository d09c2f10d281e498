"""One HTML page about runs: what was run, what came of it, what it cost, and how to run it again."""
