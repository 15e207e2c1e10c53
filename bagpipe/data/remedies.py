"""What to do about prepared data that is damaged: that depends on who has prepared it."""

import os
import re

_OF_A_RUN = re.compile(r"prepared-[0-9a-f]{16}(-[0-9a-f]{8})?")
"""The folders that runs make of raw data for themselves (`bagpipe.data.prepare.prepared_cache`)."""


def prepare_again(part: str) -> str:
    """The remedy for a damaged part of prepared data.

    The user of a run from raw data has prepared nothing, and does not know that the run did. It takes the folder that
    it finds, so that has to be deleted first.

    Args:
        part: the file's path or URL.
    """
    folder = os.path.dirname(part)
    if not _OF_A_RUN.fullmatch(os.path.basename(folder)):
        return "prepare the data again"
    if os.path.islink(folder):  # Another command works in a link to it, which is gone when this is read.
        folder = os.path.realpath(folder)
    return f"delete {folder}, and the run that made it of its data makes it again"
