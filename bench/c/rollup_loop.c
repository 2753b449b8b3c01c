// SPDX-License-Identifier: MIT
/*
 * The limit for a list of all processes: user, name, RSS, PSS, USS, swap and cgroup of each, and nothing else.
 *
 *	rollup_loop
 */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char text[1 << 16];

static ssize_t read_file(int proc, const char *pid, const char *name)
{
	char path[64];
	ssize_t size;
	int fd;

	snprintf(path, sizeof path, "%s/%s", pid, name);
	fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	size = read(fd, text, sizeof text - 1);
	close(fd);
	text[size < 0 ? 0 : size] = '\0';
	return size;
}

static long field(const char *name)
{
	const char *line = strstr(text, name);

	return line ? atol(line + strlen(name)) : -1;
}

static void list_process(int proc, const char *pid)
{
	long rss, pss, uss, swap, uid;
	char name[64] = "";

	if (read_file(proc, pid, "smaps_rollup") <= 0)
		return;
	rss = field("\nRss:");
	pss = field("\nPss:");
	uss = field("\nPrivate_Clean:") + field("\nPrivate_Dirty:");
	swap = field("\nSwap:");
	if (read_file(proc, pid, "status") <= 0)
		return;
	uid = field("\nUid:");
	sscanf(text, "Name:\t%63[^\n]", name);
	if (read_file(proc, pid, "cgroup") < 0)
		return;
	text[strcspn(text, "\n")] = '\0';
	printf("%s\t%ld\t%s\t%ld\t%ld\t%ld\t%ld\t%s\n", pid, uid, name, rss, pss, uss, swap, text);
}

int main(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;

	if (!proc) {
		perror("/proc");
		return 1;
	}
	while ((entry = readdir(proc)))
		if (isdigit((unsigned char)entry->d_name[0]))
			list_process(dirfd(proc), entry->d_name);
	closedir(proc);
	return 0;
}
