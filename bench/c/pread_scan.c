// SPDX-License-Identifier: MIT
/*
 * The limit for a reader of pagemap: pread in chunks that stay in the cache,
 * and one addition per entry. Whatever a Python program adds to this is ours.
 */
#include "scan.h"

#define CHUNK_ENTRIES	8192	/* 64 KiB: 8 to 64 KiB were equal, more was slower */

static uint64_t entries[CHUNK_ENTRIES];

static uint64_t scan_vma(int fd, uint64_t start, uint64_t end)
{
	uint64_t vpn = start >> page_shift, last = end >> page_shift;
	uint64_t nr_present = 0, want, got;
	ssize_t bytes;

	while (vpn < last) {
		want = last - vpn < CHUNK_ENTRIES ? last - vpn : CHUNK_ENTRIES;
		bytes = pread(fd, entries, want * sizeof(*entries), (off_t)(vpn * sizeof(*entries)));
		if (bytes < 0)
			die("pread pagemap");
		if (!bytes)
			break;
		got = (uint64_t)bytes / sizeof(*entries);
		for (uint64_t i = 0; i < got; i++)
			nr_present += entries[i] >> 63;
		vpn += got;
	}
	return nr_present;
}

int main(int argc, char **argv)
{
	return scan_main(argc, argv, scan_vma);
}
