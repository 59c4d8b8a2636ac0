"""Finds damage in the middle of a JPEG, which most decoders turn into wrong pixels without a word.

A scan holds one Huffman code after the other and nothing that could check them. But damage leaves traces: a code that
does not exist, an image that is complete before its bits are used up or the other way round, and brightness, which is
coded as differences from block to block, that leaves the range of 8 bits. So the codes are followed to the end, and no
pixel is computed (ITU T.81: annex F sequential, G progressive). What leaves no such trace, no decoder can know.

The compiled extension does the same in C++ (csrc/kernels/jpeg_damage.cpp), 25 times as fast or more. What stands here
is its reference, and takes over where the extension is missing.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cyclegan_fast.ops.extension import compiled_function

_compiled = compiled_function("find_jpeg_damage")

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not a stuffed 0xFF, not a restart
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_SOF_SEQUENTIAL, _SOF_PROGRESSIVE = (0xC0, 0xC1), 0xC2
_SOF_OTHERS = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)  # lossless, hierarchical, arithmetic
_DHT, _EOI, _SOS, _DQT, _DRI = 0xC4, 0xD9, 0xDA, 0xDB, 0xDD
_MOST_DC = 1024 + 64  # eight times the distance from mid-grey, and some grace for an encoder's rounding
_BEYOND = 256  # bytes of zeros after the end: more than a block can run over it
_TOO_EARLY = "the coded pixels end too early"
_UNKNOWN_CODE = "an unknown code among the coded pixels"
_LONG_BLOCK = "a block with more than 64 coefficients"
_END_OF_BLOCK = 1 << 10  # a step in the zigzag order that no other symbol makes


class _DamagedError(Exception):
    """What is wrong."""


@dataclass
class _Component:
    across: int  # sampling factors: blocks per MCU
    down: int
    quantisation: int  # number of its table


class _Coder(NamedTuple):
    """How one block of an MCU is read."""

    component: int
    dc: memoryview  # see `_symbols`
    ac: memoryview  # see `_steps`
    most: int  # of the DC coefficient, quantised


@dataclass
class _State:
    """What the segments so far have said."""

    width: int = 0
    height: int = 0
    progressive: bool = False
    components: dict[int, _Component] = field(default_factory=dict)
    tables: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)  # class * 16 + id -> counts, symbols
    dc_quantisation: dict[int, int] = field(default_factory=dict)  # table number -> its first entry
    interval: int = 0  # MCUs between restarts; 0 for none

    def blocks(self, component: _Component) -> int:
        """8x8 blocks of a component that is alone in its scan."""
        most_across = max(c.across for c in self.components.values())
        most_down = max(c.down for c in self.components.values())
        width = -(-self.width * component.across // most_across)
        height = -(-self.height * component.down // most_down)
        return -(-width // 8) * -(-height // 8)

    def mcus(self) -> int:
        """MCUs of a scan that interleaves several components."""
        across = 8 * max(c.across for c in self.components.values())
        down = 8 * max(c.down for c in self.components.values())
        return -(-self.width // across) * -(-self.height // down)


def find_damage(content: bytes) -> str | None:
    """Says what is wrong with the coded pixels of a JPEG, or nothing.

    Not looked into: arithmetic coding, lossless JPEG, and the refinement of AC coefficients in a progressive one.

    Args:
        content: A file that a decoder has read without an error.

    Returns:
        A few words, or None for a sound file.
    """
    return find_damage_reference(content) if _compiled is None else _compiled(content)


def find_damage_reference(content: bytes) -> str | None:
    """`find_damage` in Python, which the compiled one equals word for word."""
    try:
        _walk(content)
    except _DamagedError as error:
        return str(error)
    except (struct.error, IndexError, KeyError, ValueError, ZeroDivisionError):
        return "a header inside the file makes no sense"
    return None


def _walk(content: bytes) -> None:
    """Goes from marker to marker up to the end of the first image."""
    state, position = _State(), 2
    while found := _MARKER.search(content, position):
        marker, position = content[found.end() - 1], found.end()
        if marker == _EOI or marker in _SOF_OTHERS:
            return
        (length,) = struct.unpack_from(">H", content, position)
        body, position = content[position + 2 : position + length], position + length
        if marker in _SOF_SEQUENTIAL or marker == _SOF_PROGRESSIVE:
            state.progressive = marker == _SOF_PROGRESSIVE
            state.height, state.width = struct.unpack_from(">HH", body, 1)
            state.components = {
                body[i]: _Component(body[i + 1] >> 4, body[i + 1] & 15, body[i + 2])
                for i in range(6, 6 + 3 * body[5], 3)
            }
            if state.height == 0:  # told after the scan: no encoder in use does that
                return
        elif marker == _DHT:
            _read_tables(body, state)
        elif marker == _DQT:
            _read_quantisation(body, state)
        elif marker == _DRI:
            (state.interval,) = struct.unpack(">H", body)
        elif marker == _SOS:
            end = _MARKER.search(content, position)
            stop = end.start() if end else len(content)
            _check_scan(body, content[position:stop].rstrip(b"\xff"), state)
            position = stop


def _read_tables(body: bytes, state: _State) -> None:
    while body:
        counts = body[1:17]
        state.tables[body[0]] = counts, body[17 : 17 + sum(counts)]
        body = body[17 + sum(counts) :]


def _read_quantisation(body: bytes, state: _State) -> None:
    while body:
        wide = body[0] >> 4  # 16 bits an entry
        state.dc_quantisation[body[0] & 15] = int.from_bytes(body[1 : 2 + wide])
        body = body[1 + 64 * (1 + wide) :]


def _check_scan(header: bytes, data: bytes, state: _State) -> None:
    """Follows the codes of one scan, restart interval by restart interval."""
    count = header[0]
    chosen = [(state.components[header[1 + 2 * i]], header[2 + 2 * i]) for i in range(count)]
    first, last, approximation = header[1 + 2 * count : 4 + 2 * count]
    refines, shift = state.progressive and approximation >> 4 > 0, approximation & 15
    if refines and first > 0:
        return
    total = state.blocks(chosen[0][0]) if count == 1 else state.mcus()
    interval = state.interval or total
    pieces = _pieces(data, -(-total // interval))
    coders = []
    if first == 0 and not refines:
        for i, (part, ids) in enumerate(chosen):
            most = (_MOST_DC // state.dc_quantisation[part.quantisation] + 1) >> shift
            ac = memoryview(b"") if state.progressive else _steps(*state.tables[16 + (ids & 15)])
            coder = _Coder(i, _symbols(*state.tables[ids >> 4]), ac, most + 1)
            coders += [coder] * (1 if count == 1 else part.across * part.down)

    for i, piece in enumerate(pieces):
        mcus = min(interval, total - i * interval)
        piece = piece.replace(b"\xff\x00", b"\xff")
        if refines:  # one bit for each block
            used = mcus * sum(1 if count == 1 else part.across * part.down for part, _ in chosen)
        elif first == 0:
            used = _follow_blocks(_windows(piece), mcus, coders, progressive=state.progressive)
        else:
            used = _follow_ac(_windows(piece), mcus, _symbols(*state.tables[16 + (chosen[0][1] & 15)]), first, last)
        if used > 8 * len(piece):
            raise _DamagedError(_TOO_EARLY)
        if 8 * len(piece) - used >= 8:
            raise _DamagedError("coded pixels are left over")


def _pieces(data: bytes, count: int) -> list[bytes]:
    """Splits a scan at its restart markers."""
    parts = _RESTART.split(data)  # data, marker, data, ...
    pieces, restarts = parts[::2], parts[1::2]
    if restarts and not pieces[-1]:  # one restart too many at the end harms nobody
        pieces.pop()
        restarts.pop()
    if len(pieces) != count:
        raise _DamagedError(f"{len(pieces)} stretches of coded pixels where {count} belong")
    if any(marker[0] != 0xD0 + i % 8 for i, marker in enumerate(restarts)):
        raise _DamagedError("restart markers are out of order")
    return pieces


def _windows(piece: bytes) -> memoryview:
    """The 16 bits from each bit of `piece` on, uint16 [8 * (bytes + _BEYOND)]; zeros follow the end."""
    data = np.frombuffer(piece + bytes(_BEYOND + 2), np.uint8).astype(np.uint32)
    three = data[:-2] << 16 | data[1:-1] << 8 | data[2:]
    shifted = three[:, None] >> np.arange(8, 0, -1, dtype=np.uint32)
    return shifted.astype(np.uint16).reshape(-1).data


def _follow_blocks(windows: memoryview, mcus: int, coders: list[_Coder], *, progressive: bool) -> int:
    """Returns the bits that so many MCUs take: sequential, or the DC coefficients alone of a progressive scan."""
    position, end = 0, len(windows) - 8 * _BEYOND
    levels = [0] * (1 + max(coder.component for coder in coders))
    for _ in range(mcus):
        for component, dc, ac, most in coders:
            if position > end:
                raise _DamagedError(_TOO_EARLY)
            found = dc[windows[position]]
            if not found:
                raise _DamagedError(_UNKNOWN_CODE)
            position += found >> 8
            if size := found & 15:
                value = windows[position] >> 16 - size
                levels[component] += value if value >> size - 1 else value + 1 - (1 << size)
                if not -most <= levels[component] <= most:
                    raise _DamagedError("brightness leaves its range")
                position += size
            k = 64 if progressive else 1
            while k < 64:
                step = ac[windows[position]]
                if not step:
                    raise _DamagedError(_UNKNOWN_CODE)
                position += step & 63
                k += step >> 6
            if 64 < k < _END_OF_BLOCK:
                raise _DamagedError(_LONG_BLOCK)
    return position


def _follow_ac(windows: memoryview, blocks: int, symbols: memoryview, first: int, last: int) -> int:
    """Returns the bits that the coefficients `first` to `last` of so many blocks take in a progressive scan."""
    position, end, block = 0, len(windows) - 8 * _BEYOND, 0
    while block < blocks:
        if position > end:
            raise _DamagedError(_TOO_EARLY)
        block, k = block + 1, first
        while k <= last:
            found = symbols[windows[position]]
            if not found:
                raise _DamagedError(_UNKNOWN_CODE)
            position += found >> 8
            run, size = found >> 4 & 15, found & 15
            if size == 0 and run < 15:  # this block ends, and so do the following ones
                block += (1 << run) - 1 + (windows[position] >> 16 - run)
                position += run
                break
            position += size
            k += run + 1
        else:
            if k > last + 1:
                raise _DamagedError(_LONG_BLOCK)
    if block > blocks:
        raise _DamagedError("a run of empty blocks leaves the image")
    return position


def _codes(counts: bytes, symbols: bytes) -> Iterator[tuple[slice, int, int]]:
    """Yields of each code: the 16-bit windows that begin with it, its length, its symbol."""
    if len(symbols) < sum(counts):
        raise ValueError("a Huffman table is cut off")
    code, following = 0, iter(symbols)
    for length, count in enumerate(counts, 1):
        for _ in range(count):
            yield slice(code << 16 - length, (code + 1) << 16 - length), length, next(following)
            code += 1
        code <<= 1


@functools.lru_cache(maxsize=64)  # most files have the tables of the standard's annex K
def _steps(counts: bytes, symbols: bytes) -> memoryview:
    """Window -> bits of code and value, and 64 times the step in zigzag order; 0 for no code. uint32 [65536]."""
    table = np.zeros(1 << 16, np.uint32)
    for windows, length, symbol in _codes(counts, symbols):
        run, size = symbol >> 4, symbol & 15
        step = run + 1 if size or run == 15 else _END_OF_BLOCK
        table[windows] = step << 6 | length + size
    return table.data


@functools.lru_cache(maxsize=64)
def _symbols(counts: bytes, symbols: bytes) -> memoryview:
    """Window -> 256 times the code's length and its symbol; 0 for no code. uint16 [65536]."""
    table = np.zeros(1 << 16, np.uint16)
    for windows, length, symbol in _codes(counts, symbols):
        table[windows] = length << 8 | symbol
    return table.data
