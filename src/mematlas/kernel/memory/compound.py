"""The word of a struct page that makes it a tail, of a page that is not the first of its folio, and leads to the head.

Source: include/linux/page-flags.h, _compound_head(). Bit 0 is set. The rest is the address of the head's struct page:
always where the word is called compound_head. Where it is called compound_info ("mm: rework compound_head() for
power-of-2 sizeof(struct page)", in v7.2 and not yet in v6.18), it may be a mask instead: what it leaves of the tail's
own address is the head's. Which of the two a kernel writes is a matter of its options; a word says it by itself.
"""

from __future__ import annotations

from mematlas.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.arrays import Words
    from mematlas.kernel.memory.btf import StructLayout

LOWEST_MASK = (1 << 64) - (1 << 32)
"""No struct page is in the topmost 4 GiB, where the kernel itself is (Documentation/arch/x86/x86_64/mm.rst); and a mask
takes less from an address, even that of a folio of 16 GiB.
"""
HEAD_WORDS = ("page.compound_info", "page.compound_head")


def head_word(layout: StructLayout) -> int:
    """Return where the word is in a struct page.

    Raises:
        NotSupported: this kernel has no word of either name.
    """
    for name in HEAD_WORDS:
        if name in layout:
            return layout[name]
    raise NotSupported("struct pages whose tails lead to their heads in an unknown way", " or ".join(HEAD_WORDS))


def heads_of(addresses: Words, words: Words) -> Words:
    """Return where the heads of some tails are, given the addresses of the tails' struct pages and their words.

    Any page of the same folio may stand for the tail. What is no address of a struct page comes out as none.
    """
    from mematlas.arrays import np

    # Struct pages have bit 0 clear, so it need not be taken from the mask.
    return np.where(words >= np.uint64(LOWEST_MASK), addresses & words, words - np.uint64(1))
