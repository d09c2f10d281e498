"""One file for each command of the command line: its options, and from them to an algorithm that runs."""
