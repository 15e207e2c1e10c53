"""A trained model without Bagpipe: what an export's `score.py` runs.

Every module here needs torch, numpy and pyarrow only, and of the library only modules that need no more than these.
`bagpipe.export.code` copies them into each export, with imports made relative, so that an export needs no Bagpipe and
two exports can be loaded side by side.
"""
