"""Pure functions of tensors: averages, losses on preferences, policy-gradient surrogates, advantages, rewards."""
