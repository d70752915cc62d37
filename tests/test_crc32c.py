"""crc32c: each way of this processor, against vectors and against the definition."""

from __future__ import annotations

import random

import pytest

from ringdispatch._spool_file import CRC32C_WAYS, crc32c_of

# RFC 3720, B.4, and the check value of the catalogues.
VECTORS = [
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    (
        bytes.fromhex(
            "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018"
            "28000000 00000000 02000000 00000000"
        ),
        0xD9963A56,
    ),
]


def by_definition(data: bytes, crc: int) -> int:
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("way", [None, *CRC32C_WAYS])
def test_crc_is_that_of_the_vectors(way: str | None) -> None:
    assert [crc32c_of(data, 0, way) for data, _ in VECTORS] == [
        crc for _, crc in VECTORS
    ]


@pytest.mark.parametrize("way", CRC32C_WAYS)
def test_every_length_and_alignment_has_the_crc_of_the_definition(way: str) -> None:
    drawn = random.Random(3720)
    data = memoryview(drawn.randbytes(400))
    for size in range(301):
        seed = drawn.getrandbits(32)
        first = size % 16
        part = data[first : first + size]
        assert crc32c_of(part, seed, way) == by_definition(bytes(part), seed), size
    for first in range(16):
        part = data[first : first + 100]
        assert crc32c_of(part, 7, way) == by_definition(bytes(part), 7), first


@pytest.mark.parametrize("way", CRC32C_WAYS)
def test_crc_of_parts_is_that_of_the_whole(way: str) -> None:
    data = random.Random(1).randbytes(300)
    whole = crc32c_of(data, 5, way)
    for cut in range(301):
        assert crc32c_of(data[cut:], crc32c_of(data[:cut], 5, way), way) == whole
