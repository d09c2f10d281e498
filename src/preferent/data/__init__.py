"""From the files that people have to what a model learns from: rows → columns → template → load → batches.

``rows`` reads lines lazily, ``columns`` recognises the format of a row, ``messages`` reads conversations, ``template``
turns text into tokens and masks, ``load`` puts these together, ``stream``, ``mixture`` and ``batches`` decide which row
comes when, ``check`` says what is wrong with a file before a run does.
"""
