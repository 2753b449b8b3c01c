/* SPDX-License-Identifier: MIT */
/*
 * What the two scanners share: the list of VMAs, the clock and the loop.
 *
 * One observation is everything a tool has to do to answer once: read maps,
 * open pagemap, visit every VMA. All of it is inside the measured time.
 */
#ifndef BENCH_SCAN_H
#define BENCH_SCAN_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_REPEAT	1000

/* Binary digits of an offset in a page; set before anything is scanned. */
static unsigned int page_shift;

/* Returns the number of present pages in [start, end). */
typedef uint64_t (*scan_vma_fn)(int pagemap_fd, uint64_t start, uint64_t end);

static inline void die(const char *what)
{
	perror(what);
	exit(1);
}

static inline uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static inline int open_pagemap(const char *pid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%s/pagemap", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(path);
	return fd;
}

/* One observation: the present pages of every VMA. */
static inline uint64_t observe(const char *pid, scan_vma_fn scan_vma)
{
	uint64_t start, end, nr_present = 0;
	char path[64], *line = NULL;
	size_t capacity = 0;
	FILE *maps;
	int fd;

	snprintf(path, sizeof(path), "/proc/%s/maps", pid);
	maps = fopen(path, "re");
	if (!maps)
		die(path);
	fd = open_pagemap(pid);
	while (getline(&line, &capacity, maps) > 0) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64, &start, &end) != 2)
			continue;
		/* [vsyscall] lies in the kernel's half: it has no pagemap. */
		if (start >> 63)
			continue;
		nr_present += scan_vma(fd, start, end);
	}
	free(line);
	fclose(maps);
	close(fd);
	return nr_present;
}

/* True when somebody wrote to our stdin, or when its other end has gone. */
static inline int stop_asked(void)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };

	return poll(&in, 1, 0) > 0;
}

/* Observe without a pause until asked to stop, as an impatient tool would. */
static inline int observe_in_a_loop(const char *pid, scan_vma_fn scan_vma)
{
	uint64_t nr_observations = 0;

	puts("ready");
	fflush(stdout);
	/* The last one is not counted: it may have ended after the target did. */
	for (observe(pid, scan_vma); !stop_asked(); observe(pid, scan_vma))
		nr_observations++;
	printf("{\"nr_observations\": %" PRIu64 "}\n", nr_observations);
	return 0;
}

static inline int observe_repeatedly(const char *pid, long repeat, scan_vma_fn scan_vma)
{
	uint64_t ns[MAX_REPEAT], nr_present = 0, before;

	for (long i = 0; i < repeat; i++) {
		before = cpu_ns();
		nr_present = observe(pid, scan_vma);
		ns[i] = cpu_ns() - before;
	}
	printf("{\"nr_present\": %" PRIu64 ", \"cpu_ns\": [", nr_present);
	for (long i = 0; i < repeat; i++)
		printf("%s%" PRIu64, i ? ", " : "", ns[i]);
	puts("]}");
	return 0;
}

static inline int scan_main(int argc, char **argv, scan_vma_fn scan_vma)
{
	long repeat;

	page_shift = __builtin_ctzl(sysconf(_SC_PAGESIZE));
	if (argc != 2 && argc != 3) {
		fprintf(stderr, "usage: %s PID [REPEAT | loop]\n", argv[0]);
		return 2;
	}
	if (argc == 3 && !strcmp(argv[2], "loop"))
		return observe_in_a_loop(argv[1], scan_vma);
	repeat = argc == 3 ? strtol(argv[2], NULL, 10) : 1;
	if (repeat < 1 || repeat > MAX_REPEAT) {
		fprintf(stderr, "%s: REPEAT is 1 to %d\n", argv[0], MAX_REPEAT);
		return 2;
	}
	return observe_repeatedly(argv[1], repeat, scan_vma);
}

#endif
