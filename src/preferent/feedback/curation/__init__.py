"""What is in a set of texts, and what stands in it twice: pure functions of strings, over numpy.

``minhash`` finds near-duplicates, ``passages`` what was copied from an evaluation, ``language`` and ``topics`` say what
the texts are about, ``split`` deals prompts out to parts, ``balance`` says how often a row of a rare class is repeated.
"""
