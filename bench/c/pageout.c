// SPDX-License-Identifier: MIT
/*
 * The limit for paging out: process_madvise(MADV_PAGEOUT) over a range, a
 * chunk a call, and nothing else. Nobody looks at what it did.
 *
 *	pageout PID START SIZE CHUNK	START in hexadecimal, the others decimal
 *
 * Prints how many bytes were advised.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT		21
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise	440
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open		434
#endif

static void die(const char *what)
{
	perror(what);
	exit(1);
}

int main(int argc, char **argv)
{
	uint64_t address, end, chunk, nr_advised = 0;
	int pidfd;

	if (argc != 5) {
		fprintf(stderr, "usage: %s PID START SIZE CHUNK\n", argv[0]);
		return 2;
	}
	pidfd = (int)syscall(SYS_pidfd_open, atoi(argv[1]), 0);
	if (pidfd < 0)
		die("pidfd_open");
	address = strtoull(argv[2], NULL, 16);
	end = address + strtoull(argv[3], NULL, 10);
	chunk = strtoull(argv[4], NULL, 10);
	while (address < end) {
		struct iovec range = {
			.iov_base = (void *)(uintptr_t)address,
			.iov_len = end - address < chunk ? end - address : chunk,
		};
		long done = syscall(SYS_process_madvise, pidfd, &range, 1UL, MADV_PAGEOUT, 0);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			die("process_madvise");
		address += (uint64_t)done;
		nr_advised += (uint64_t)done;
	}
	printf("%" PRIu64 "\n", nr_advised);
	return 0;
}
