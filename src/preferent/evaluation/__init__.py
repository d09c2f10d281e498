"""What was reached: win rates with intervals, statistics of text, best-of-n. An evaluation trains nothing."""
