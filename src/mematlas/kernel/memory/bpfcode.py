"""An assembler for BPF: instructions with labels and names of functions, and the types that functions need.

Sources: Documentation/bpf/standardization/instruction-set.rst; Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct

from mematlas.kernel.memory.bpfcall import FUNCTION_INFO, HELPER_LOOP
from mematlas.kernel.memory.btf import BTF_MAGIC, KIND_FUNC


class Register(int):
    """One of the machine's registers: what stands in its place is a number otherwise."""


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = (Register(number) for number in range(11))
"""R0 is what is returned, R1 to R5 are arguments, R6 to R9 outlive calls, R10 is the frame pointer."""

ALU64, JUMP, FROM_REGISTER = 0x07, 0x05, 0x08
OPERATIONS = {
    "+=": 0x00,
    "-=": 0x10,
    "*=": 0x20,
    "|=": 0x40,
    "&=": 0x50,
    "<<=": 0x60,
    ">>=": 0x70,
    "^=": 0xA0,
    "=": 0xB0,
}
ARITHMETIC_SHIFT = 0xC0
CONDITIONS = {"==": 0x10, ">": 0x20, ">=": 0x30, "&": 0x40, "!=": 0x50, "<": 0xA0, "<=": 0xB0, "s<": 0xC0}
LOADS = {1: 0x71, 4: 0x61, 8: 0x79}
STORES = {1: 0x73, 4: 0x63, 8: 0x7B}
STORE_VALUE = 0x7A
WIDE, CALL, EXIT = 0x18, 0x85, 0x95
# What the source register of a wide load, and of a call, says about the value.
MAP_VALUE, FUNCTION, OTHER_FUNCTION, KERNEL_FUNCTION = 2, 4, 1, 2

BTF_HEADER_SIZE = 24
# The kind of a type is in bits 24-28 of its info.
INFO_INT, INFO_FUNC, INFO_FUNC_PROTO = 1 << 24, KIND_FUNC << 24, 13 << 24
NR_ARGUMENTS = 2
"""Of our functions the most."""


class Code:
    """A program in the making: functions one after another, each with labels of its own.

    >>> code = Code(map_fd=3)
    >>> code.function("main", 1)
    >>> code.do(R0, "=", 0)
    >>> code.leave()
    >>> code.assembled().hex()
    'b7000000000000009500000000000000'
    """

    def __init__(self, map_fd: int) -> None:
        self._map_fd = map_fd
        self._words: list[list[int]] = []
        """Of each instruction: opcode, registers, offset, value."""
        self._indexes: dict[str, int] = {}
        self._jumps: list[tuple[int, str, int]] = []
        """Instruction, where to, and which of its fields says so."""
        self._functions: list[tuple[str, int, bool, int]] = []
        self._function = ""
        self._nr_labels = 0

    def _emit(self, opcode: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> None:
        self._words.append([opcode, src << 4 | dst, offset, value])

    # Functions and labels

    def function(self, name: str, nr_arguments: int, is_static: bool = False) -> None:
        """Begin a function. One that is not static the verifier looks at once, for any arguments."""
        self._functions.append((name, len(self._words), is_static, nr_arguments))
        self._indexes[name] = len(self._words)
        self._function = name

    def label(self, name: str) -> None:
        """Give a name to the next instruction, in this function."""
        self._indexes[f"{self._function}.{name}"] = len(self._words)

    # Instructions

    def do(self, dst: Register, operation: str, value: int) -> None:
        """Compute with a register, or with a number of 32 bits."""
        opcode = ALU64 | OPERATIONS[operation]
        if isinstance(value, Register):
            self._emit(opcode | FROM_REGISTER, dst, value)
        else:
            self._emit(opcode, dst, value=value)

    def sign_extend(self, dst: Register) -> None:
        """Take the lower half for a signed number."""
        self._emit(ALU64 | OPERATIONS["<<="], dst, value=32)
        self._emit(ALU64 | ARITHMETIC_SHIFT, dst, value=32)

    def load(self, dst: Register, base: Register, offset: int, size: int = 8) -> None:
        """Set a register to the number of so many bytes at an offset from where another leads."""
        self._emit(LOADS[size], dst, base, offset)

    def store(self, base: Register, offset: int, src: int, size: int = 8) -> None:
        """Store a register, or a number as 64 bits."""
        if isinstance(src, Register):
            self._emit(STORES[size], base, src, offset)
        else:
            self._emit(STORE_VALUE, base, 0, offset, src)

    def wide(self, dst: Register, value: int) -> None:
        """Set a register to a number of 64 bits."""
        self._wide(dst, 0, value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF)

    def map_value(self, dst: Register) -> None:
        """Set a register to the address of the map's element."""
        self._wide(dst, MAP_VALUE, self._map_fd, 0)

    def address_of(self, dst: Register, function: str) -> None:
        """Set a register to the address of a function."""
        self._jumps.append((len(self._words), function, 3))
        self._wide(dst, FUNCTION, 0, 0)

    def _wide(self, dst: Register, src: int, low: int, high: int) -> None:
        self._emit(WIDE, dst, src, value=signed(low))
        self._emit(0, value=signed(high))

    def jump(self, label: str) -> None:
        """Go on at a label of this function."""
        self._jumps.append((len(self._words), f"{self._function}.{label}", 2))
        self._emit(JUMP)

    def jump_if(self, dst: Register, condition: str, value: int, label: str) -> None:
        """Jump where a comparison with a register, or with a number, holds."""
        self._jumps.append((len(self._words), f"{self._function}.{label}", 2))
        opcode = JUMP | CONDITIONS[condition]
        if isinstance(value, Register):
            self._emit(opcode | FROM_REGISTER, dst, value, 0)
        else:
            self._emit(opcode, dst, value=value)

    def helper(self, number: int) -> None:
        """Call a helper of the kernel's by its number (enum bpf_func_id)."""
        self._emit(CALL, value=number)

    def call(self, function: str) -> None:
        """Call a function of ours."""
        self._jumps.append((len(self._words), function, 3))
        self._emit(CALL, src=OTHER_FUNCTION)

    def kernel_function(self, type_id: int) -> None:
        """Call a function that the kernel gives to programs (kfunc)."""
        self._emit(CALL, src=KERNEL_FUNCTION, value=type_id)

    def leave(self, value: int | None = None) -> None:
        """Return from a function."""
        if value is not None:
            self.do(R0, "=", value)
        self._emit(EXIT)

    # What it makes

    def assembled(self) -> bytes:
        """Return the instructions."""
        for at, index, field in self._jumps:
            self._words[at][field] = self._indexes[index] - at - 1
        flat = [number for word in self._words for number in word]
        return struct.pack("=" + "BBhi" * len(self._words), *flat)

    def types(self) -> tuple[bytes, bytes]:
        """Return the types of the functions, as BTF, and which function has which: every argument is a number."""
        names = bytearray(b"\0u64\0a1\0a2\0")
        types = struct.pack("=4I", 1, INFO_INT, 8, 64)
        for nr_arguments in range(NR_ARGUMENTS + 1):
            # Type 2 + n is of functions with n arguments. Their names lie at 5 and 8.
            types += struct.pack("=3I", 0, INFO_FUNC_PROTO | nr_arguments, 1)
            for number in range(nr_arguments):
                types += struct.pack("=2I", 5 + 3 * number, 1)
        infos = b""
        for number, (name, at, is_static, nr_arguments) in enumerate(self._functions):
            types += struct.pack("=3I", len(names), INFO_FUNC | (not is_static), 2 + nr_arguments)
            names += name.encode() + b"\0"
            infos += FUNCTION_INFO.pack(at, 3 + NR_ARGUMENTS + number)
        sizes = (0, len(types), len(types), len(names))
        header = struct.pack("=HBBI4I", BTF_MAGIC, 1, 0, BTF_HEADER_SIZE, *sizes)
        return header + types + bytes(names), infos


class MapCode:
    """Writes functions that share a map with us. R8 is the map's element everywhere, ``at`` says where words lie."""

    def __init__(self, map_fd: int, at: dict[str, int]) -> None:
        self.code = Code(map_fd)
        self.at = at

    def _begin(self, name: str, nr_arguments: int, is_static: bool = False) -> None:
        self.code.function(name, nr_arguments, is_static)
        self.code.map_value(R8)

    def _get(self, dst: Register, name: str) -> None:
        self.code.load(dst, R8, self.at[name])

    def _put(self, name: str, value: int) -> None:
        self.code.store(R8, self.at[name], value)

    def _loop(self, function: str) -> None:
        """Call a function so many times as R1 says."""
        code = self.code
        code.address_of(R2, function)
        code.do(R3, "=", 0)
        code.do(R4, "=", 0)
        code.helper(HELPER_LOOP)


def signed(value: int) -> int:
    """Return a number of 32 bits as a signed one.

    >>> signed(0xFFFFFFFF)
    -1
    """
    return value - (value >> 31 << 32)
