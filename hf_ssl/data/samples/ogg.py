"""Ogg files that come out the same every time: the encoder gives each stream a random serial number."""

import struct

_HEADER = struct.Struct("<4sBBqIIIB")  # capture pattern, version, flags, granule, serial, sequence, checksum, segments
_SERIAL, _CHECKSUM = 14, 22  # offsets in bytes
_POLYNOMIAL = 0x04C11DB7


def _crc_table() -> list[int]:
    """Table of the CRC-32 of RFC 3533, section 6: polynomial 0x04C11DB7, not reflected, initial value 0."""
    table = []
    for byte in range(256):
        remainder = byte << 24
        for _ in range(8):
            remainder = (remainder << 1) ^ (_POLYNOMIAL if remainder & 0x80000000 else 0)
        table.append(remainder & 0xFFFFFFFF)
    return table


_CRC_TABLE = _crc_table()


def _checksum(page: bytes) -> int:
    crc = 0
    for byte in page:
        crc = ((crc << 8) & 0xFFFFFFFF) ^ _CRC_TABLE[(crc >> 24) ^ byte]
    return crc


def with_fixed_serial(stream: bytes, serial: int = 0) -> bytes:
    """Gives every page of an Ogg stream the serial number `serial`, and the checksum that belongs to it."""
    data, start = bytearray(stream), 0
    while start < len(data):
        num_segments = _HEADER.unpack_from(data, start)[-1]
        body = start + _HEADER.size + num_segments
        end = body + sum(data[start + _HEADER.size : body])
        struct.pack_into("<I", data, start + _SERIAL, serial)
        struct.pack_into("<I", data, start + _CHECKSUM, 0)
        struct.pack_into("<I", data, start + _CHECKSUM, _checksum(bytes(data[start:end])))
        start = end
    return bytes(data)
