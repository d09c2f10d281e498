"""What marks episodes: reward models, functions of the user's, and weighted sums of them."""
