"""Reads what a cubin says of itself: an ELF file with NVIDIA's own sections.

Their layout is not documented. It was compared with what `cuobjdump -elf` prints for our kernels on
every architecture, as a test does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_ELF_64_LITTLE = b"\x7fELF\x02\x01"
_CUDA_MACHINE = 190  # EM_CUDA
_ABI, _NEW_ABI = 7, 0x41  # EI_OSABI, in ptxas of CUDA 13 for 9.0 and later
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_INFO_PREFIX, _TEXT_PREFIX = ".nv.info.", ".text."

# Formats and attributes of `.nv.info`.
_HAS_SIZE = 0x04  # EIFMT_SVAL: the two bytes behind the attribute are the length of its value
_REQUIRED_THREADS = 0x10
_FRAME_SIZE = 0x11
_PARAMETER = 0x17
_REGISTERS = 0x2F


@dataclass(frozen=True, kw_only=True)
class CubinFile:
    """A kernel's machine code, described by itself.

    Attributes:
        capability: of the cards that it is for, such as 90.
        symbol: the kernel's name in it.
        parameters: offset and size of each parameter, in order.
        threads: of a block, as compiled; 0 if it does not say.
        registers: of a thread.
        stack_bytes: of a thread, in memory: where spilled registers go.
    """

    capability: int
    symbol: str
    parameters: tuple[tuple[int, int], ...]
    threads: int
    registers: int
    stack_bytes: int


def read_cubin(content: bytes) -> CubinFile:
    """Reads a cubin with one kernel.

    Raises:
        ValueError: it is none, in a few words.
    """
    try:
        return _read(content)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"is cut off or damaged ({error})") from error


def _read(content: bytes) -> CubinFile:
    if not content.startswith(_ELF_64_LITTLE):
        raise ValueError("is no ELF file")
    header = _HEADER.unpack_from(content)
    machine, flags, section_offset, num_sections, names_index = (
        header[2],
        header[7],
        header[6],
        header[12],
        header[13],
    )
    if machine != _CUDA_MACHINE:
        raise ValueError("holds no code for NVIDIA's cards")
    sections = [
        _SECTION.unpack_from(content, section_offset + number * _SECTION.size)
        for number in range(num_sections)
    ]
    names = _bytes_of(content, sections[names_index])
    by_name = {_text(names, section[0]): section for section in sections}
    kernels = [name for name in by_name if name.startswith(_TEXT_PREFIX)]
    if len(kernels) != 1:
        raise ValueError(f"holds {len(kernels)} kernels instead of one")
    symbol = kernels[0].removeprefix(_TEXT_PREFIX)
    own = _bytes_of(content, by_name[_INFO_PREFIX + symbol])
    shared = _bytes_of(content, by_name[".nv.info"])
    number = _symbol_number(content, by_name, symbol)
    threads = [value[0] for value in _values(own, _REQUIRED_THREADS, "<I")]
    return CubinFile(
        capability=_capability(header[0][_ABI], flags),
        symbol=symbol,
        parameters=_parameters(own),
        threads=threads[0] if threads else 0,
        registers=_of_symbol(shared, _REGISTERS, number),
        stack_bytes=_of_symbol(shared, _FRAME_SIZE, number),
    )


def _capability(abi: int, flags: int) -> int:
    """Returns e.g. 90; the place of the number changed with the ABI's version of CUDA 13."""
    return flags >> 8 & 0xFF if abi == _NEW_ABI else flags & 0xFF


def _parameters(info: bytes) -> tuple[tuple[int, int], ...]:
    found: dict[int, tuple[int, int]] = {}
    for _, ordinal, offset, packed in _values(info, _PARAMETER, "<IHHI"):
        found[ordinal] = (offset, packed >> 18)
    return tuple(found[ordinal] for ordinal in sorted(found))


def _of_symbol(info: bytes, attribute: int, number: int) -> int:
    for symbol, value in _values(info, attribute, "<II"):
        if symbol == number:
            return value
    raise ValueError(f"lacks attribute {attribute:#x} of its kernel")


def _values(info: bytes, wanted: int, layout: str) -> Iterator[tuple[int, ...]]:
    """Yields the values of an attribute."""
    place = 0
    while place + 4 <= len(info):
        format_, attribute, size = struct.unpack_from("<BBH", info, place)
        place += 4
        if format_ != _HAS_SIZE:
            continue  # the value is in the two bytes of `size`
        if attribute == wanted:
            yield struct.unpack_from(layout, info, place)
        place += size


def _symbol_number(content: bytes, by_name: dict[str, tuple[int, ...]], symbol: str) -> int:
    table = _bytes_of(content, by_name[".symtab"])
    names = _bytes_of(content, by_name[".strtab"])
    for number in range(len(table) // _SYMBOL.size):
        name, kind, *_ = _SYMBOL.unpack_from(table, number * _SYMBOL.size)
        if kind & 0xF == 2 and _text(names, name) == symbol:  # STT_FUNC
            return number
    raise ValueError(f"lacks the symbol {symbol}")


def _bytes_of(content: bytes, section: tuple[int, ...]) -> bytes:
    offset, size = section[4], section[5]
    found = content[offset : offset + size]
    if len(found) != size:
        raise ValueError("is cut off")
    return found


def _text(names: bytes, offset: int) -> str:
    return names[offset : names.index(b"\0", offset)].decode()
