"""From the files that people have to what a model learns from: rows → columns → template → load → batches.

``rows`` reads lines lazily, ``columns`` recognises the format of a row, ``messages`` reads conversations, ``template``
turns text into tokens and masks, ``reading`` counts what becomes of each row, ``load`` puts these together. Rows of
large files go through ``blocks`` and ``arrow`` into a cache on disk, ``kept``, and come from there through ``joined``.
``stream``, ``mixture`` and ``batches`` decide which row comes when, ``check`` says what is wrong with
a file before a run does.
"""
