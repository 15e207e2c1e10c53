"""One pass over all parts of raw data, from any place at which an earlier pass has stopped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from bagpipe.data.draft import Place
from bagpipe.data.encoded import EncodedSource
from bagpipe.data.examples import Examples
from bagpipe.data.raw import ordered_map


@dataclass(slots=True)
class Walk:
    """Sources one after another. What it has seen counts from the beginning, wherever it began itself."""

    sources: Sequence[EncodedSource]
    begin: Place = field(default_factory=Place)
    sizes: list[int] = field(init=False)
    """Examples of each source."""
    bad_lines: int = field(init=False)
    first_bad: str | None = field(init=False)
    _pieces: list[Place] = field(init=False, default_factory=list)
    """Where the pieces of late begin; `examples` is the number of examples before each."""

    def __post_init__(self) -> None:
        self.sizes = list(self.begin.sizes) or [0] * len(self.sources)
        self.bad_lines, self.first_bad = self.begin.bad_lines, self.begin.first_bad

    def examples(self) -> Iterator[Examples]:
        """Those from number `begin.examples` on."""
        position = sum(self.sizes)
        for number in range(self.begin.source, len(self.sources)):
            source = self.sources[number]
            first = self.begin.piece if number == self.begin.source else 0
            pieces = islice(source.raw.pieces(0)[1], first, None)
            for piece, (block, examples) in enumerate(ordered_map(source.encode, pieces, source.readers), first):
                sizes = tuple(self.sizes)
                self._pieces.append(Place(position, number, piece, sizes, self.bad_lines, self.first_bad))
                self.bad_lines += block.bad_lines
                self.first_bad = self.first_bad or block.first_bad
                self.sizes[number] += len(block)
                done = max(0, self.begin.examples - position)
                position += len(block)
                if done < len(block):
                    yield examples.slice(done, len(block)) if done else examples

    def place(self, examples: int) -> Place:
        """Where to begin so that example number `examples`, which was read just now, is the first one."""
        while len(self._pieces) > 1 and self._pieces[1].examples <= examples:
            del self._pieces[0]
        return msgspec.structs.replace(self._pieces[0], examples=examples)
