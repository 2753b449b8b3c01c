"""What a front end without rights may ask besides `mematlas.kernel.queries`: of page tables, RAM, the page cache."""

from __future__ import annotations

from mematlas.kernel.memory.reader import READER_NAMES
from mematlas.kernel.queries import (
    QUERIES,
    Query,
    flag,
    fraction,
    leaves,
    number,
    one_of,
    optional,
    pairs,
    path,
    places,
    text,
)

SERVED = "mematlas.model.pagetables.served"
READER = one_of("auto", *READER_NAMES)
TABLES = (
    Query(f"{SERVED}:open_tables", (READER,), is_about_process=False),
    Query(f"{SERVED}:prove_frames", (READER,), is_about_process=False),
    Query(f"{SERVED}:hold_tables", (READER,)),
    Query(f"{SERVED}:release_tables", (number,), is_about_process=False, is_told=True),
    Query(f"{SERVED}:are_tables_current", (number,), is_about_process=False),
    Query(f"{SERVED}:walk_tables", (number, flag, number, number, number), is_about_process=False),
    Query(f"{SERVED}:walk_to_address", (number, flag, number), is_about_process=False),
    Query(f"{SERVED}:count_maps", (READER, places), is_about_process=False),
    Query(f"{SERVED}:count_maps_alone", (READER, places), is_about_process=False),
    Query(f"{SERVED}:find_anonymous", (READER, places), is_about_process=False),
    Query(f"{SERVED}:find_pinned", (READER, places), is_about_process=False),
    Query(f"{SERVED}:count_shares", (READER, places), is_about_process=False),
    Query(f"{SERVED}:open_counts", is_about_process=False),
    Query(f"{SERVED}:renew_layout", is_about_process=False),
    Query(f"{SERVED}:hold_counted"),
    Query(f"{SERVED}:release_counted", (number,), is_about_process=False, is_told=True),
    Query(f"{SERVED}:are_counted_current", (number,), is_about_process=False),
    Query(f"{SERVED}:count_range", (number, number, number, number), is_about_process=False),
    Query(f"{SERVED}:sample_counted", (number,), is_about_process=False),
    Query(f"{SERVED}:count_table_shares", (number, number, number), is_about_process=False),
    Query(f"{SERVED}:count_leaves", (leaves,), is_about_process=False),
    Query(f"{SERVED}:ask_frames", (places,), is_about_process=False),
)
"""What is asked about page tables."""
OBSERVE = "mematlas.observe.served"
SOURCE = one_of("auto", "structs", "files")
MACHINE = (
    Query(f"{OBSERVE}:open_frames", (SOURCE,), False, is_about_everybody=True),
    Query(
        f"{OBSERVE}:look_at_frames",
        (SOURCE, text, optional(fraction), optional(number)),
        False,
        is_about_everybody=True,
    ),
    Query(f"{OBSERVE}:check_frames", (SOURCE,), False, is_about_everybody=True),
    Query(f"{OBSERVE}:find_kernel_memory", (fraction,), False, is_about_everybody=True),
    Query(f"{OBSERVE}:find_owners", (fraction, pairs), False, is_about_everybody=True),
    Query(f"{OBSERVE}:find_everything", (text, number, text, fraction), False, is_about_everybody=True),
    Query(f"{OBSERVE}:find_largest_files", (number,), False, is_about_everybody=True),
    Query(f"{OBSERVE}:look_at_process", is_stream=True),
    Query(f"{OBSERVE}:look_at_path", (path,), False, is_about_everybody=True, is_stream=True),
)
"""What is asked about all of RAM and the page cache."""
EVERY = (*QUERIES, *TABLES, *MACHINE)
"""All that the command line asks."""
