"""Where a virtual address is: its VMA, its frame or swap slot, and its offset in a file."""

from __future__ import annotations

from mematlas.frozen import Record, Tabular, record
from mematlas.model.entry_flags import entry_flags
from mematlas.model.pages import STATE_OF_BYTE, decode_place, is_hidden

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mematlas.analysis.results import Reading
    from mematlas.kernel.maps import Vma
    from mematlas.model.address_space import AddressSpace
    from mematlas.model.page_source import PageSource
    from mematlas.words import State


@record
class Translation(Record):
    """Where one virtual address is."""

    address: int
    vma: Vma | None
    state: State | None
    """One of `mematlas.model.pages.STATES`; None outside every VMA."""
    pfn: int | None
    phys: int | None
    """Physical address of this very byte."""
    file_offset: int | None
    """Bytes into the backing file of this very byte; None for anonymous memory."""
    swap_type: int | None
    swap_offset: int | None
    flags: tuple[str, ...]
    """The entry's bits by name."""
    hidden: bool
    """Whether there is a frame or a swap slot that this reader may not know: needs CAP_SYS_ADMIN."""


@record
class Translations(Tabular, Record):
    """Where virtual addresses are: a sequence of `Translation`, in the order asked."""

    items: tuple[Translation, ...]
    reading: Reading

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Translation]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Translation:
        return self.items[index]


def translate(address: int, space: AddressSpace, reader: PageSource) -> Translation:
    """Return where a virtual address is, by the one entry that pagemap has for it."""
    vma = space.find(address)
    if vma is None:
        return Translation(
            address=address,
            vma=None,
            state=None,
            pfn=None,
            phys=None,
            file_offset=None,
            swap_type=None,
            swap_offset=None,
            flags=(),
            hidden=False,
        )
    has_file = vma.inode or vma.path.startswith("/")
    file_offset = vma.offset + address - vma.start if has_file else None
    block = reader.block_at(vma, address)
    byte, entry = (reader.hole(vma), 0) if block is None else (block.states[0], block.entries[0])
    pfn, swap_type, swap_offset = decode_place(byte, entry)
    phys = None if pfn is None else pfn * reader.page_size + address % reader.page_size
    return Translation(
        address=address,
        vma=vma,
        state=STATE_OF_BYTE[byte],
        pfn=pfn,
        phys=phys,
        file_offset=file_offset,
        swap_type=swap_type,
        swap_offset=swap_offset,
        flags=entry_flags(byte, entry),
        hidden=is_hidden(byte, entry),
    )
