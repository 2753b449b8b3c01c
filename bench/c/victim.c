// SPDX-License-Identifier: MIT
/*
 * A process whose memory is known, to be looked at.
 *
 *	victim small SIZE	SIZE bytes of touched small pages
 *	victim thp SIZE		the same in transparent huge pages
 *	victim sparse		1 TiB of address space, 262,144 pages in it
 *	victim scattered	1 TiB with one page in every second page table (4 MiB with 4 KiB pages)
 *	victim vmas N		N VMAs of one page each, every other one touched
 *	victim backends N SIZE	itself and N children, all with the same SIZE bytes of small pages
 *	victim tiny		nothing but itself
 *
 * Prints its pid and "ready", then sleeps until its stdin is closed: a victim
 * cannot outlive the program that holds the other end of the pipe.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>

#define SPARSE_HALF	(512UL << 30)
#define SCATTERED_SIZE	(1UL << 40)
#define NR_CLUSTERS	4096UL
#define CLUSTER_PAGES	64UL

static size_t page_size, table_span;	/* what one page table maps is what a huge page is */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static char *map(size_t size, int prot, int flags)
{
	char *address = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (address == MAP_FAILED)
		die("mmap");
	return address;
}

static void advise(char *address, size_t size, int advice)
{
	if (madvise(address, size, advice))
		die("madvise");
}

static void touch(char *address, size_t nr_pages, size_t step)
{
	for (size_t i = 0; i < nr_pages; i++)
		((volatile char *)address)[i * step * page_size] = 1;
}

static void fill_small(size_t size)
{
	char *address = map(size, PROT_READ | PROT_WRITE, 0);

	advise(address, size, MADV_NOHUGEPAGE);
	touch(address, size / page_size, 1);
}

static void fill_thp(size_t size)
{
	char *address = map(size + table_span, PROT_READ | PROT_WRITE, 0);

	address = (char *)(((uintptr_t)address + table_span - 1) & ~(table_span - 1));
	advise(address, size, MADV_HUGEPAGE);
	touch(address, size / page_size, 1);
}

/* Clusters of 64 pages with a hole after each page, spread evenly over the half. */
static void fill_sparse(void)
{
	char *address = map(SPARSE_HALF, PROT_READ | PROT_WRITE, MAP_NORESERVE);

	map(SPARSE_HALF, PROT_NONE, MAP_NORESERVE);
	advise(address, SPARSE_HALF, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < NR_CLUSTERS; i++)
		touch(address + i * (SPARSE_HALF / NR_CLUSTERS), CLUSTER_PAGES, 2);
}

/* Each page in a page table of its own, and every second slot for a table empty. */
static void fill_scattered(void)
{
	char *address = map(SCATTERED_SIZE, PROT_READ | PROT_WRITE, MAP_NORESERVE);

	advise(address, SCATTERED_SIZE, MADV_NOHUGEPAGE);
	touch(address, SCATTERED_SIZE / (2 * table_span), 2 * table_span / page_size);
}

/* Neighbours must differ in their rights, or they are one VMA. */
static void fill_vmas(size_t nr_vmas)
{
	char *address = map(nr_vmas * page_size, PROT_READ, 0);

	for (size_t i = 0; i < nr_vmas; i += 2) {
		if (mprotect(address + i * page_size, page_size, PROT_READ | PROT_WRITE))
			die("mprotect");
		address[i * page_size] = 1;
	}
}

/* Each touches all of it. They are killed with us, and say that they are ready by closing their end of the pipe. */
static void fork_backends(size_t nr, size_t size)
{
	char *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int ends[2];
	char byte;

	if (address == MAP_FAILED || pipe(ends))
		die("mmap");
	touch(address, size / page_size, 1);
	for (size_t i = 0; i < nr; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (pid)
			continue;
		if (prctl(PR_SET_PDEATHSIG, SIGKILL))
			die("prctl");
		for (size_t j = 0; j < size; j += page_size)
			(void)((volatile char *)address)[j];
		close(STDIN_FILENO);
		close(STDOUT_FILENO);
		close(ends[0]);
		close(ends[1]);
		for (;;)
			pause();
	}
	close(ends[1]);
	while (read(ends[0], &byte, 1) > 0)
		;
}

/* They are killed with us, too. */
static void start_programs(size_t nr, char **words)
{
	int ends[2];
	size_t nr_lines = 0;
	char byte;

	if (pipe(ends))
		die("pipe");
	for (size_t i = 0; i < nr; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (pid)
			continue;
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) || dup2(ends[1], STDOUT_FILENO) < 0)
			die("prctl");
		close(ends[0]);
		close(ends[1]);
		close(STDIN_FILENO);
		execv(words[0], words);
		die(words[0]);
	}
	close(ends[1]);
	while (nr_lines < nr && read(ends[0], &byte, 1) > 0)
		nr_lines += byte == '\n';
}

static size_t parse_number(const char *text)
{
	char *end;
	unsigned long number;

	errno = 0;
	number = strtoul(text, &end, 0);
	if (errno || *end || !number) {
		fprintf(stderr, "victim: N is a number: %s\n", text);
		exit(2);
	}
	return number;
}

static size_t parse_size(const char *text)
{
	size_t size = parse_number(text);

	if (size % table_span) {
		fprintf(stderr, "victim: SIZE is in bytes, a multiple of %zu: %s\n", table_span, text);
		exit(2);
	}
	return size;
}

int main(int argc, char **argv)
{
	char byte;

	page_size = sysconf(_SC_PAGESIZE);
	table_span = page_size / sizeof(uint64_t) * page_size;
	if (argc == 3 && !strcmp(argv[1], "small")) {
		fill_small(parse_size(argv[2]));
	} else if (argc == 3 && !strcmp(argv[1], "thp")) {
		fill_thp(parse_size(argv[2]));
	} else if (argc == 3 && !strcmp(argv[1], "vmas")) {
		fill_vmas(parse_number(argv[2]));
	} else if (argc == 4 && !strcmp(argv[1], "backends")) {
		fork_backends(parse_number(argv[2]), parse_size(argv[3]));
	} else if (argc > 3 && !strcmp(argv[1], "programs")) {
		start_programs(parse_number(argv[2]), argv + 3);
	} else if (argc == 2 && !strcmp(argv[1], "sparse")) {
		fill_sparse();
	} else if (argc == 2 && !strcmp(argv[1], "scattered")) {
		fill_scattered();
	} else if (argc != 2 || strcmp(argv[1], "tiny")) {
		fprintf(stderr,
			"usage: %s small SIZE | thp SIZE | sparse | scattered | vmas N | backends N SIZE | programs N PROGRAM ... | tiny\n",
			argv[0]);
		return 2;
	}
	printf("%d\nready\n", (int)getpid());
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	return 0;
}
