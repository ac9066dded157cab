"""How far an engine is: its next offset by topic and partition, in a file that both sides map into memory.

An engine writes eight bytes for each event or batch that it has processed, which costs it next to nothing; whoever
feeds it reads them without asking the broker.
"""

import mmap
import struct
from pathlib import Path

from streams.core.records import FILLS, PNL, SIGNALS

TOPICS = (PNL, SIGNALS, FILLS)
_WORD = struct.Struct("<q")


class ProgressFile:
    """``len(TOPICS) * partitions`` little-endian 64-bit integers, topic by topic."""

    def __init__(self, path: Path, partitions: int) -> None:
        """Maps the file; makes it, all zeros, if it is not there."""
        size = _WORD.size * len(TOPICS) * partitions
        if not path.exists():
            path.write_bytes(bytes(size))
        self._partitions = partitions
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)
        self._places = {
            (topic, partition): _WORD.size * (number * partitions + partition)
            for number, topic in enumerate(TOPICS)
            for partition in range(partitions)
        }

    def set(self, topic: str, partition: int, position: int) -> None:
        """``position``: the offset after the last one processed."""
        _WORD.pack_into(self._map, self._places[topic, partition], position)

    def read(self) -> dict[tuple[str, int], int]:
        """All positions."""
        return {place: _WORD.unpack_from(self._map, at)[0] for place, at in self._places.items()}
