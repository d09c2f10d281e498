"""What surrounds an algorithm: the run folder, checkpoints, tracking, and wrappers from iterator to iterator.

``run`` holds the folder of a run, ``drive`` wraps an algorithm, ``checkpoint`` and ``track`` write what lasts, and
``files`` is how anything is written: a kill or a power cut at any moment leaves the old or the new, whole.
"""
