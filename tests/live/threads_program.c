/*
 * Threads whose stacks and arenas are known: prints them as JSON, and waits until its standard input ends.
 *
 * Each thread asks glibc where its stack is (pthread_getattr_np(3)), which is the truth about it, takes some of it,
 * and has malloc make an arena for it.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STACK_PAGES 37
#define ARENA_PIECES 211
#define PIECE 5000
#define OWN_STACK (1 << 20)

static long page;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t ready;
static const char *separator = "";

static void told(const char *what, const char *name, pid_t tid, uintptr_t start, size_t size)
{
	pthread_mutex_lock(&lock);
	printf("%s{\"what\": \"%s\", \"tid\": %d, \"start\": %lu, \"size\": %zu, \"name\": \"", separator, what, tid, start,
	       size);
	while (*name)
		printf("%02x", (unsigned char)*name++);
	printf("\"}");
	separator = ", ";
	pthread_mutex_unlock(&lock);
}

static void touch_stack(void)
{
	volatile char *taken = alloca(STACK_PAGES * page);
	for (int number = 0; number < STACK_PAGES; number++)
		taken[number * page] = 1;
}

static void fill_arena(const char *name)
{
	char *last = NULL;
	for (int number = 0; number < ARENA_PIECES; number++)
		last = memset(malloc(PIECE), 1, PIECE);
	told("arena", name, gettid(), (uintptr_t)last, 0);
}

/* The name of a thread begins with what it is to do: "hot" runs on and on, "brief" ends when all are there. */
static void *work(void *argument)
{
	const char *name = argument;
	pthread_attr_t attribute;
	void *stack;
	size_t size;

	pthread_setname_np(pthread_self(), name);
	pthread_getattr_np(pthread_self(), &attribute);
	pthread_attr_getstack(&attribute, &stack, &size);
	touch_stack();
	told(strncmp(name, "brief", 5) ? "stack" : "cached", name, gettid(), (uintptr_t)stack, size);
	fill_arena(name);
	pthread_barrier_wait(&ready);
	while (strncmp(name, "brief", 5))
		if (strncmp(name, "hot", 3))
			pause();
	return NULL;
}

/* It has no block of its own of the C library: it may call nothing of that but this. */
static int raw(void *argument)
{
	for (;;)
		syscall(SYS_ppoll, argument, 0, NULL, NULL, 0);
	return 0;
}

/* A guard of one page, memory, and another guard, so that nothing else can be of the same VMA. */
static char *guarded(size_t size)
{
	char *start = mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (start == MAP_FAILED || mprotect(start + page, size, PROT_READ | PROT_WRITE))
		exit(1);
	return start + page;
}

int main(int number, char **names)
{
	pthread_t thread, ending;
	pthread_attr_t attribute;
	char *cloned;
	int tid;

	page = sysconf(_SC_PAGESIZE);
	printf("[");
	pthread_barrier_init(&ready, NULL, number + 2); /* the named, one that ends, one on memory of its own, and we */
	pthread_attr_init(&attribute);
	pthread_attr_setstack(&attribute, guarded(OWN_STACK), OWN_STACK);
	pthread_create(&thread, &attribute, work, "own");

	cloned = guarded(OWN_STACK);
	tid = clone(raw, cloned + OWN_STACK, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD, NULL);
	told("clone", "", tid, (uintptr_t)cloned, OWN_STACK);

	/* Below a guard: its stack is no part of another VMA. */
	pthread_create(&ending, NULL, work, "brief");
	for (int index = 1; index < number; index++)
		pthread_create(&thread, NULL, work, names[index]);
	pthread_barrier_wait(&ready);
	pthread_join(ending, NULL);
	printf("]\n");
	fflush(stdout);
	while (getchar() != EOF)
		;
	_exit(0);
}
