// SPDX-License-Identifier: MIT
/*
 * A process that feels it when somebody looks.
 *
 *	stall_target SIZE CPU [STEP]
 *
 * Touches SIZE bytes of small pages once, or one page in each STEP bytes of
 * them, pins itself to CPU, prints its pid and "ready". Then, for each line "SECONDS" on stdin, maps 64 KiB, touches it
 * and unmaps it for so long, and prints as one line of JSON how many times it
 * did and how long one time took. Mapping needs the lock for writing that
 * observers hold for reading, so their holds show here. Ends with its stdin.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define OPERATION_SIZE	(64UL << 10)
#define MAX_OPERATIONS	(16UL << 20)

static size_t page_size;

/* Every latency is kept, as a percentile from a histogram would be a bound only. */
static uint32_t *latencies;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static char *map(size_t size)
{
	char *address = mmap(NULL, size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (address == MAP_FAILED)
		die("mmap");
	return address;
}

static void touch(char *address, size_t size, size_t step)
{
	for (size_t i = 0; i < size; i += step)
		((volatile char *)address)[i] = 1;
}

static void map_touch_unmap(void)
{
	char *address = map(OPERATION_SIZE);

	touch(address, OPERATION_SIZE, page_size);
	if (munmap(address, OPERATION_SIZE))
		die("munmap");
}

/* Returns the number of operations done before the deadline. */
static size_t operate(uint64_t deadline)
{
	uint64_t before = now_ns(), after;
	size_t n = 0;

	while (before < deadline) {
		if (n == MAX_OPERATIONS) {
			fprintf(stderr, "stall_target: more than %lu operations\n", MAX_OPERATIONS);
			exit(1);
		}
		map_touch_unmap();
		after = now_ns();
		latencies[n++] = after - before > UINT32_MAX ? UINT32_MAX : (uint32_t)(after - before);
		before = after;
	}
	return n;
}

static int compare(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

	return (a > b) - (a < b);
}

static double percentile_ms(size_t n, double share)
{
	size_t rank = (size_t)((double)n * share);

	return (double)latencies[rank < n ? rank : n - 1] / 1e6;
}

static void one_round(double seconds)
{
	uint64_t start = now_ns();
	size_t n = operate(start + (uint64_t)(seconds * 1e9));
	double took = (double)(now_ns() - start) / 1e9;

	qsort(latencies, n, sizeof(*latencies), compare);
	printf("{\"nr_operations\": %zu, \"seconds\": %.6f, \"p50_ms\": %.6f, \"p99_ms\": %.6f, "
	       "\"p999_ms\": %.6f, \"worst_ms\": %.6f}\n",
	       n, took, percentile_ms(n, 0.5), percentile_ms(n, 0.99),
	       percentile_ms(n, 0.999), percentile_ms(n, 1.0));
	fflush(stdout);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

static char *touched_small_pages(size_t size, size_t step)
{
	char *address = map(size);

	if (madvise(address, size, MADV_NOHUGEPAGE))
		die("madvise");
	touch(address, size, step);
	return address;
}

int main(int argc, char **argv)
{
	char line[64];

	page_size = sysconf(_SC_PAGESIZE);
	if (argc != 3 && argc != 4) {
		fprintf(stderr, "usage: %s SIZE CPU [STEP]\n", argv[0]);
		return 2;
	}
	pin(atoi(argv[2]));
	touched_small_pages(strtoul(argv[1], NULL, 0), argc == 4 ? strtoul(argv[3], NULL, 0) : page_size);
	/* Touched now: the first fault of a page must not look like a stall. */
	latencies = (uint32_t *)touched_small_pages(MAX_OPERATIONS * sizeof(*latencies), page_size);
	printf("%d\nready\n", (int)getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		one_round(strtod(line, NULL));
	return 0;
}
