// SPDX-License-Identifier: MIT
/*
 * The limit for a sparse address space: the PAGEMAP_SCAN ioctl skips holes in
 * the kernel and returns only the ranges of present pages (Linux 6.7).
 *
 * The structure is written out here because distribution headers are older
 * than the kernels people run.
 */
#include <sys/ioctl.h>

#include "scan.h"

struct scan_arg {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end;
	uint64_t vec;
	uint64_t vec_len;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};

struct scan_region {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

#define SCAN_IOCTL	_IOWR('f', 16, struct scan_arg)
#define SCAN_PRESENT	(1ULL << 3)
#define VEC_LEN		512

_Static_assert(SCAN_IOCTL == 0xC0606610, "the kernel's number of PAGEMAP_SCAN");

static struct scan_region vec[VEC_LEN];

static uint64_t scan_vma(int fd, uint64_t start, uint64_t end)
{
	struct scan_arg arg = {
		.size = sizeof(arg),
		.end = end,
		.vec = (uintptr_t)vec,
		.vec_len = VEC_LEN,
		.category_mask = SCAN_PRESENT,
		.return_mask = SCAN_PRESENT,
	};
	uint64_t nr_present = 0;
	int nr_regions;

	while (start < end) {
		arg.start = start;
		nr_regions = ioctl(fd, SCAN_IOCTL, &arg);
		if (nr_regions < 0)
			die("PAGEMAP_SCAN");
		for (int i = 0; i < nr_regions; i++)
			nr_present += (vec[i].end - vec[i].start) >> page_shift;
		/*
		 * A vector that is not full says that the walk is complete.
		 * walk_end alone does not: the last call may leave it below the
		 * end of the last region, and going on from there counts twice.
		 */
		if (nr_regions < VEC_LEN)
			break;
		start = arg.walk_end;
		if (start < vec[nr_regions - 1].end)
			start = vec[nr_regions - 1].end;
	}
	return nr_present;
}

int main(int argc, char **argv)
{
	return scan_main(argc, argv, scan_vma);
}
