// SPDX-License-Identifier: MIT
/*
 * The limit for a census of all frames by the kernel's own files: each is read
 * once, in chunks that stay in the cache, with one addition per word.
 */
#include "scan.h"

#define CHUNK_WORDS	8192	/* 64 KiB, as in pread_scan.c */

static const char * const paths[] = { "/proc/kpageflags", "/proc/kpagecount", "/proc/kpagecgroup" };

static uint64_t words[CHUNK_WORDS];

static uint64_t sum_of(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t sum = 0;
	ssize_t bytes;
	off_t at = 0;

	if (fd < 0)
		die(path);
	while ((bytes = pread(fd, words, sizeof(words), at)) > 0) {
		for (ssize_t i = 0; i < bytes / 8; i++)
			sum += words[i];
		at += bytes;
	}
	if (bytes < 0)
		die(path);
	close(fd);
	return sum;
}

int main(int argc, char **argv)
{
	uint64_t ns[MAX_REPEAT], before, sum = 0;
	long nr_files, repeat;

	if (argc != 4) {
		fprintf(stderr, "usage: %s 1|2|3 PID REPEAT\n", argv[0]);
		return 2;
	}
	nr_files = strtol(argv[1], NULL, 10);
	repeat = strtol(argv[3], NULL, 10);
	if (nr_files < 1 || nr_files > 3 || repeat < 1 || repeat > MAX_REPEAT) {
		fprintf(stderr, "%s: 1 to 3 files, 1 to %d times\n", argv[0], MAX_REPEAT);
		return 2;
	}
	for (long i = 0; i < repeat; i++) {
		before = cpu_ns();
		for (long file = 0; file < nr_files; file++)
			sum += sum_of(paths[file]);
		ns[i] = cpu_ns() - before;
	}
	/* The sum is told, so that it is made. */
	fprintf(stderr, "%" PRIu64 "\n", sum);
	printf("{\"nr_present\": null, \"cpu_ns\": [");
	for (long i = 0; i < repeat; i++)
		printf("%s%" PRIu64, i ? ", " : "", ns[i]);
	puts("]}");
	return 0;
}
