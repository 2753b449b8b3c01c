"""The paging modes of Linux, as data.

Those of arm64 and riscv64 are unproven: kernel memory is read on x86-64 alone, so nothing but tests makes them. With
them goes what `mematlas.model.pagetables.entries` has of contiguous entries, NAPOT and halves with a top table each.

Sources: arch/x86/include/asm/pgtable_types.h and pgtable-2level/3level/64.h; arch/arm64/include/asm/pgtable-hwdef.h,
pgtable-prot.h, pgtable.h; arch/riscv/include/asm/pgtable-bits.h, pgtable-64.h, pgtable.h.
"""

from __future__ import annotations

from mematlas.errors import BadInput
from mematlas.frozen import replace
from mematlas.kernel.memory.x86 import PAGE_SHIFT, TABLE_BITS
from mematlas.model.pagetables.entries import Flag, Level, PagingMode, SwapLayout, Test
from mematlas.model.pagetables.swap_types import SpecialSwap, special_swap_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.memory.memory import KernelMemory

NAMES = ("pte", "pmd", "pud", "p4d")


def bits(low: int, high: int) -> int:
    """Return a mask of the bits from ``low`` to ``high``, both included."""
    return (1 << high + 1) - (1 << low)


def make_levels(address_bits: int, page_shift: int, index_bits: int, highest_leaf: int) -> tuple[Level, ...]:
    """Return the levels for so many address bits, top first. ``highest_leaf`` counts up from the pte, which is 0."""
    levels: list[Level] = []
    shift = page_shift
    while shift < address_bits:
        nr_bits = min(index_bits, address_bits - shift)
        name = "pgd" if shift + nr_bits >= address_bits else NAMES[len(levels)]
        can_map = len(levels) <= highest_leaf
        levels.append(Level(name=name, shift=shift, nr_entries=1 << nr_bits, can_map=can_map))
        shift += nr_bits
    return tuple(reversed(levels))


def is_set(*bits: int) -> Test:
    """Return the test that any of these bits is set."""
    return tuple((1 << bit, 1 << bit) for bit in bits)


def hidden_by(*bits: int) -> Test:
    """Return the test that any of these bits is set in an entry that the hardware does not follow (bit 0 clear)."""
    return tuple((1 << bit | 1, 1 << bit) for bit in bits)


def flag(name: str, bit: int, where: str = "any") -> Flag:
    """Return the flag that one set bit is."""
    return Flag(name=name, mask=1 << bit, value=1 << bit, where=where)


def pkey(key: int) -> Flag:
    """Return the flag that a protection key of x86 is."""
    return Flag(name=f"pkey{key}", mask=bits(59, 62), value=key << 59, where="leaf")


def without_flag(flags: tuple[Flag, ...], name: str) -> tuple[Flag, ...]:
    """Return the flags of a kernel that lacks one of them."""
    return tuple(entry_flag for entry_flag in flags if entry_flag.name != name)


# x86: _PAGE_BIT_*. Bits 9 to 11 and 57, 58 are the kernel's own.
X86_SAVED_DIRTY = 58
"""_PAGE_BIT_SAVED_DIRTY, where an entry that loses its right to write keeps its dirty bit, since Linux 6.6. Before, the
bit was _PAGE_BIT_DEVMAP."""
X86_FLAGS = (
    flag("present", 0),
    flag("writable", 1),
    flag("user", 2),
    flag("pwt", 3),
    flag("pcd", 4),
    flag("accessed", 5),
    flag("dirty", 6, "leaf"),
    flag("pat", 7, "page"),
    flag("huge", 7, "block"),
    flag("global", 8, "leaf"),
    flag("special", 9, "leaf"),
    flag("uffd-wp", 10, "leaf"),
    flag("soft-dirty", 11, "leaf"),
    flag("pat", 12, "block"),
    flag("saved-dirty", X86_SAVED_DIRTY, "leaf"),
    flag("no-pti-shadow", 58, "table"),
    *map(pkey, range(1, 16)),
    flag("nx", 63),
)


# _PAGE_SWP_SOFT_DIRTY and _PAGE_SWP_UFFD_WP are where the writable and the user bit are otherwise.
X86_SWAP = SwapLayout(type_shift=59, offset_shift=9, offset_bits=50, inverted=True, soft_dirty=1 << 1, uffd_wp=1 << 2)


def x86_64(
    nr_levels: int = 4,
    phys_bits: int = 52,
    encryption_mask: int = 0,
    special_swap: SpecialSwap | None = None,
    saved_dirty: bool = True,
) -> PagingMode:
    """Return the mode of x86-64 with 4 levels, or with 5 (LA57). ``saved_dirty`` is False before Linux 6.6.

    >>> [level.name for level in x86_64(5).levels]
    ['pgd', 'p4d', 'pud', 'pmd', 'pte']
    """
    if nr_levels not in (4, 5):
        raise BadInput(f"x86-64 has 4 or 5 levels of tables, not {nr_levels}")
    return PagingMode(
        name=f"x86-64, {nr_levels} levels",
        levels=make_levels(PAGE_SHIFT + TABLE_BITS * nr_levels, PAGE_SHIFT, TABLE_BITS, highest_leaf=2),
        address_fields=((bits(PAGE_SHIFT, 51), 0),),
        present=is_set(0),
        table=((bits(0, 0) | 1 << 7, 1),),
        prot_none=hidden_by(8),
        # pmd_present() also takes a block without P and PROT_NONE: it is being split.
        prot_none_block=hidden_by(8, 7),
        flags=X86_FLAGS if saved_dirty else without_flag(X86_FLAGS, "saved-dirty"),
        writable=is_set(1),
        executable=((1 << 63, 0),),
        user=is_set(2),
        accessed=is_set(5),
        dirty=is_set(6, X86_SAVED_DIRTY) if saved_dirty else is_set(6),
        global_=is_set(8),
        special=is_set(9),
        contiguous=(),
        swap=X86_SWAP,
        reserved=bits(phys_bits, 51) & ~encryption_mask if phys_bits < 52 else 0,
        encryption_mask=encryption_mask,
        inverted_prot_none=True,
        special_swap=special_swap,
    )


ARM64_FLAGS = (
    flag("valid", 0),
    flag("user", 6, "leaf"),
    flag("read-only", 7, "leaf"),
    flag("accessed", 10, "leaf"),
    flag("not-global", 11, "leaf"),
    flag("guarded", 50, "leaf"),
    flag("write", 51, "leaf"),
    flag("contiguous", 52, "leaf"),
    flag("pxn", 53, "leaf"),
    flag("uxn", 54, "leaf"),
    flag("dirty", 55, "leaf"),
    flag("special", 56, "leaf"),
    flag("uffd-wp", 58, "leaf"),
    flag("pxn-table", 59, "table"),
    flag("uxn-table", 60, "table"),
    flag("no-user-table", 61, "table"),
    flag("read-only-table", 62, "table"),
)

# Granule: page shift, index bits, highest level that maps blocks, and what the contiguous bit joins there (CONT_*).
ARM64_GRANULES = {
    4 << 10: (12, 9, 2, (16, 16)),
    16 << 10: (14, 11, 1, (128, 32)),
    64 << 10: (16, 13, 1, (32, 32)),
}

# Before Linux 6.11 ("arm64/mm: generalize PMD_PRESENT_INVALID for all levels") PTE_PROT_NONE is bit 58, a block that is
# being split has bit 59, the swap fields begin lower, and there is no write protection for userfaultfd.
ARM64_SWAP = SwapLayout(type_shift=6, offset_shift=12, offset_bits=50, uffd_wp=1 << 3)
ARM64_OLDER_SWAP = SwapLayout(type_shift=3, offset_shift=8, offset_bits=50)

# UXN clear: user space may execute it, even where it may not read it (execute-only: the user bit is clear). Kernel code
# is what user space may not reach and has PXN clear.
ARM64_EXECUTABLE: Test = ((1 << 54, 0), (1 << 6 | 1 << 53, 0))


def arm64_levels(granule: int, address_bits: int) -> tuple[Level, ...]:
    """Return the levels of arm64, top first, with what the contiguous bit joins in the lowest two."""
    page_shift, index_bits, highest_leaf, contiguous = ARM64_GRANULES[granule]
    *upper, pmd, pte = make_levels(address_bits, page_shift, index_bits, highest_leaf)
    pte_joins, pmd_joins = contiguous
    return (*upper, replace(pmd, nr_contiguous=pmd_joins), replace(pte, nr_contiguous=pte_joins))


def arm64_address_fields(granule: int, wide: bool) -> tuple[tuple[int, int], ...]:
    """Return where entries of arm64 hold physical address bits.

    __pte_to_phys(): with 64K pages bits 48-51 of an address are in 12-15; with LPA2, 50 and 51 are in 8 and 9.
    """
    page_shift = ARM64_GRANULES[granule][0]
    if not wide:
        return ((bits(page_shift, 47), 0),)
    if granule == 64 << 10:
        return ((bits(page_shift, 47), 0), (bits(12, 15), 36))
    return ((bits(page_shift, 49), 0), (bits(8, 9), 42))


def arm64(
    granule: int = 4 << 10,
    address_bits: int = 48,
    wide: bool = False,
    special_swap: SpecialSwap | None = None,
    older: bool = False,
) -> PagingMode:
    """Return a mode of arm64. ``wide`` is 52-bit physical addresses: LPA, with 4K and 16K granules LPA2.

    Each half has tables of its own there (TTBR0, TTBR1), each of which translates ``address_bits``. ``older`` is a
    kernel before Linux 6.11.

    >>> [(level.name, level.shift) for level in arm64(65536).levels]
    [('pgd', 42), ('pmd', 29), ('pte', 16)]
    """
    if granule not in ARM64_GRANULES:
        raise BadInput(f"arm64 has granules of 4, 16 or 64 KiB, not {granule} bytes")
    return PagingMode(
        name=f"arm64, {granule // 1024}K pages, {address_bits} bits",
        levels=arm64_levels(granule, address_bits),
        address_fields=arm64_address_fields(granule, wide),
        present=is_set(0),
        table=((3, 3),),
        # PTE_PRESENT_INVALID, the place of not-global.
        prot_none=hidden_by(58) if older else hidden_by(11),
        prot_none_block=hidden_by(58, 59) if older else hidden_by(11),
        flags=without_flag(ARM64_FLAGS, "uffd-wp") if older else ARM64_FLAGS,
        writable=((1 << 51, 1 << 51), (1 << 7, 0)),
        executable=ARM64_EXECUTABLE,
        user=((1 << 6, 1 << 6), (1 << 54, 0)),
        accessed=is_set(10),
        dirty=((1 << 55, 1 << 55), (1 << 51 | 1 << 7, 1 << 51)),
        global_=((1 << 11, 0),),
        special=is_set(56),
        contiguous=is_set(52),
        swap=ARM64_OLDER_SWAP if older else ARM64_SWAP,
        table_rights=False,
        shared_tables=False,
        special_swap=special_swap,
    )


RISCV_FLAGS = (
    flag("valid", 0),
    flag("readable", 1, "leaf"),
    flag("writable", 2, "leaf"),
    flag("executable", 3, "leaf"),
    flag("user", 4, "leaf"),
    flag("global", 5),
    flag("accessed", 6, "leaf"),
    flag("dirty", 7, "leaf"),
    flag("special", 8, "leaf"),
    Flag(name="non-cacheable", mask=bits(61, 62), value=1 << 61, where="leaf"),
    Flag(name="io", mask=bits(61, 62), value=2 << 61, where="leaf"),
    flag("napot", 63, "page"),
)


def riscv64(address_bits: int = 39, special_swap: SpecialSwap | None = None) -> PagingMode:
    """Return a mode of riscv64: Sv39, Sv48 or Sv57.

    >>> [level.name for level in riscv64(39).levels]
    ['pgd', 'pmd', 'pte']
    """
    if address_bits not in (39, 48, 57):
        raise BadInput(f"riscv64 has Sv39, Sv48 and Sv57, not Sv{address_bits}")
    return PagingMode(
        name=f"riscv64, Sv{address_bits}",
        levels=make_levels(address_bits, 12, 9, highest_leaf=4),
        address_fields=((bits(10, 53), 2),),
        present=is_set(0),
        # An entry without any of R, W and X points at a table.
        table=((0xF, 1),),
        # _PAGE_PROT_NONE is the global bit of an entry that is not valid.
        prot_none=hidden_by(5),
        # pmd_present() also takes a block that is not valid and may be read, written or executed: it is being split.
        prot_none_block=hidden_by(5, 1, 2, 3),
        flags=RISCV_FLAGS,
        writable=is_set(2),
        executable=is_set(3),
        user=is_set(4),
        accessed=is_set(6),
        dirty=is_set(7),
        global_=is_set(5),
        special=is_set(8),
        contiguous=(),
        swap=SwapLayout(type_shift=7, offset_shift=12, offset_bits=52),
        # Bits 59 and 60 are software's with Svrsw60t59b.
        reserved=bits(54, 58),
        napot=1 << 63,
        table_rights=False,
        special_swap=special_swap,
    )


def mode_of(memory: KernelMemory) -> PagingMode:
    """Return the mode of the running kernel.

    >>> from mematlas.kernel.memory.readers import open_kernel_memory
    >>> mode_of(open_kernel_memory()).name  # doctest: +SKIP
    'x86-64, 4 levels'
    """
    return x86_64(
        nr_levels=memory.levels,
        phys_bits=memory.phys_bits,
        encryption_mask=memory.encryption_mask,
        special_swap=read_special_swap(memory),
        saved_dirty=has_saved_dirty(memory),
    )


def mode_named(name: str) -> PagingMode | None:
    """Return the mode of a name, of those that `mode_of` can return, as it is without what differs by machine.

    >>> len(mode_named("x86-64, 5 levels").levels), mode_named("x86-64, 6 levels")
    (5, None)
    """
    return next((mode for mode in map(x86_64, (4, 5)) if mode.name == name), None)


def has_saved_dirty(memory: KernelMemory) -> bool:
    """Whether this kernel moves the dirty bit of what loses its right to write: tried, on a page of our own."""
    import os

    from mematlas.kernel.memory.ownpages import on_protected_page
    from mematlas.model.pagetables.walk import WalkStep, walk_address

    def translate(address: int) -> tuple[WalkStep, ...]:
        with memory.open_mm(os.getpid()) as mm:
            return walk_address(memory, x86_64(memory.levels), mm.pgd, address)

    steps = on_protected_page(translate)
    # It is still dirty in the processor's own bit where the kernel has moved nothing.
    return not (steps and "dirty" in steps[-1].flags)


def read_special_swap(memory: KernelMemory) -> SpecialSwap | None:
    """Return which swap types are no swap on the running kernel; None when its configuration cannot be read."""
    from mematlas.kernel.kconfig import read_config

    config = read_config()
    if config is None:
        return None
    # max_physmem_bits - page shift = SWP_PFN_BITS (include/linux/swapops.h).
    usual_bits = 46 if memory.levels == 4 else 52
    physmem_bits = memory.vmcoreinfo.get("NUMBER(MAX_PHYSMEM_BITS)", usual_bits)
    return special_swap_of(config, memory.kernel_version, int(physmem_bits) - PAGE_SHIFT)
