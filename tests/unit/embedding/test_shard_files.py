"""Whose rows lie in a shard's directory, and whether anything is lost with a process that was killed."""

from dataclasses import dataclass
from pathlib import Path

from bagpipe.embedding.server import _nothing_lost
from bagpipe.embedding.shard_files import Header, claim_directory, confirm_directory, give_up_directory


@dataclass
class Shard:
    """One shard's directory, by what its processes do with it."""

    directory: Path
    start: str = "a"

    def header(self, attempt: int) -> Header:
        return Header(
            job="j",
            attempt=attempt,
            start=self.start,
            shard=0,
            num_shards=1,
            num_trainers=1,
            record_widths=(4,),
            layout_digest="d",
        )

    def begins(self, attempt: int = 0) -> bool:
        """A process begins; whether it may take the place of an earlier one."""
        return _nothing_lost(self.directory, "j", attempt)

    def opens(self, attempt: int = 0) -> bool:
        reused = claim_directory(self.directory, self.header(attempt))
        (self.directory / "dim4.records").touch()
        return reused

    def serves(self, attempt: int = 0) -> None:
        confirm_directory(self.directory, self.header(attempt))


def test_a_process_that_never_served_has_lost_nothing(tmp_path: Path) -> None:
    """Killed before it registered, or while it loaded its rows: the next one is as good."""
    shard = Shard(tmp_path / "0")
    assert not shard.begins()
    assert shard.begins()
    assert not shard.opens()
    assert shard.begins() and not shard.opens()
    shard.serves()
    assert shard.begins() and shard.opens()
    assert sorted(path.name for path in shard.directory.iterdir()) == ["dim4.records", "header.json"]


def test_rows_that_were_served_and_are_gone_are_lost(tmp_path: Path) -> None:
    """On another node's empty disk, with files that were given up, or in another attempt, a process is new."""
    shard = Shard(tmp_path / "0")
    shard.begins()
    shard.opens()
    shard.serves()
    assert not Shard(tmp_path / "elsewhere").begins()
    assert not shard.begins(attempt=1)
    other = Shard(tmp_path / "1")
    other.begins()
    other.opens()
    other.serves()
    give_up_directory(other.directory)
    assert not other.begins()


def test_rows_of_another_start_are_not_reused(tmp_path: Path) -> None:
    """Roles that are started by hand have the same attempt's number each time: rows that a killed program's server kept
    are not those of the checkpoint that the next start begins from.
    """
    shard = Shard(tmp_path / "0")
    shard.begins()
    shard.opens()
    shard.serves()
    again = Shard(shard.directory, start="b")
    assert again.begins(), "nothing of the new start is lost"
    assert not again.opens()
    again.serves()
    assert again.opens() and not shard.opens()
