// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * mematlas: raw page tables in debugfs, to be looked at and never changed.
 *
 * Under /sys/kernel/debug/mematlas/, for root with CAP_SYS_ADMIN, and no lockdown=confidentiality:
 *
 *   pid                  whose tables: a PID, or "self" for whoever opens a file
 *   pgdindex p4dindex pudindex pmdindex
 *                        which entry is followed at each level, 0 to 511
 *   pgd p4d pud pmd pte  512 raw entries, 4096 bytes, of the table that this leads to
 *   tables               the same by ioctl, many at a time, see struct mematlas_copy
 *   info                 what reading them takes: levels, direct map, isolation, address bits
 *
 * Every table is reached by walking from the top one, each time anew, so that what is copied is a
 * table and nothing else. An open file pins the mm_struct, and with it the top table. Those below
 * are read with the mm in use (mmget_not_zero), which keeps them from the exit, and with interrupts
 * off for the length of one walk and one copy, which keeps those that are freed after RCU or an
 * interrupt to every processor (collapse of file mappings, empty tables since 6.14, tables of
 * vmalloc). Those of user space, moreover, with the mmap lock held for reading, as the kernel's own
 * files in /proc do, and only where a VMA lies: who unmaps goes on under the read lock too, but
 * frees no table that a VMA still needs (free_pgtables, its floor and ceiling); everybody else who
 * frees one holds the lock for writing.
 *
 * What no module can lock: memory that is being taken out of the machine; flushes that need no
 * interrupt (AMD, since 6.15), where a table of the kernel may be freed under us; and PMD tables
 * that processes share (hugetlb), which truncating the file takes away through its own list of
 * mappings. All of that shows as entries of the wrong moment, and never as a fault.
 *
 * There is no policy here, and no version of the kernel: entries are copied, Python decides.
 */

#include <linux/capability.h>
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/security.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#ifndef CONFIG_X86_64
#error "mematlas knows the tables of x86-64 alone"
#endif

#define ABI_VERSION	1
#define NR_ENTRIES	512
#define NR_LEVELS_MAX	5
#define NR_REQUESTS_MAX	64

/* The ABI of "tables". Levels count from 0 (PTE) upwards; all fields have a fixed width. */

/* Chooses the address space of this open file; ours with pid 0. */
struct mematlas_select {
	__s32 pid;
	__u32 reserved;		/* 0 */
	__u64 pgd;		/* out: physical address of its top table */
};

#define REQUEST_USER_PGD	1	/* start at the top table that user space runs with */

/* One table: the one at this level on the way to the address. */
struct mematlas_request {
	__u64 address;
	__u32 level;
	__u32 flags;
	__u64 frame;		/* out: physical address of the table */
	__s32 error;		/* out: 0; -ENODATA: there is none; -ESRCH: the process has ended */
	__u32 reserved;		/* 0 */
};

struct mematlas_copy {
	__u64 requests;		/* address of nr requests */
	__u64 tables;		/* address of nr times 4096 bytes; filled where error is 0 */
	__u32 nr;
	__u32 reserved;		/* 0 */
};

#define MEMATLAS_SELECT	_IOWR('m', 1, struct mematlas_select)
#define MEMATLAS_COPY	_IOWR('m', 2, struct mematlas_copy)

/* What is chosen by "pid" and the index files, for all who open a file after that. */
static DEFINE_MUTEX(chosen_lock);
static struct pid *chosen_pid;		/* NULL: self */
static unsigned int chosen_index[NR_LEVELS_MAX];	/* by level; that of the PTE is not used */

static struct dentry *directory;

/* An open "tables", or an open pgd, p4d, pud, pmd, pte. */
struct table_file {
	struct mutex lock;	/* one reader at a time */
	struct mm_struct *mm;	/* held by mm_count */
	struct mematlas_request request;
	bool filled;
	u64 *table;
};

/* Every file asks here when it is opened: debugfs itself looks at the user's number alone. */
static int may_open(void)
{
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	return security_locked_down(LOCKDOWN_KCORE);
}

static unsigned int nr_levels(void)
{
	return pgtable_l5_enabled() ? 5 : 4;
}

static bool is_isolated(void)
{
	return boot_cpu_has(X86_FEATURE_PTI);
}

static unsigned int level_shift(unsigned int level)
{
	return PAGE_SHIFT + 9 * level;
}

static unsigned int level_index(u64 address, unsigned int level)
{
	return (address >> level_shift(level)) & (NR_ENTRIES - 1);
}

static bool is_kernel_half(u64 address)
{
	return level_index(address, nr_levels() - 1) >= NR_ENTRIES / 2;
}

/* Return the table that an entry leads to; NULL for whatever is not a table in memory. */
static const u64 *follow(u64 entry)
{
	u64 phys = entry & PTE_PFN_MASK;

	if (!(entry & _PAGE_PRESENT) || (entry & _PAGE_PSE))
		return NULL;
	if (!pfn_valid(PHYS_PFN(phys)))
		return NULL;
	return __va(phys);
}

/*
 * Walk and copy, with interrupts off; the caller keeps the tables from being freed otherwise.
 *
 * Reading never faults for good: were a table freed all the same, and its frame taken out of the
 * direct map, then there is none, and nothing worse.
 */
static int walk_and_copy(struct mm_struct *mm, struct mematlas_request *request, u64 *to)
{
	const u64 *table = (const u64 *)mm->pgd;
	unsigned int level = nr_levels() - 1;
	unsigned long flags;
	int error = 0;
	u64 entry;

	/* The second top table lies behind the first (pti_set_user_pgtbl). */
	if (request->flags & REQUEST_USER_PGD)
		table += NR_ENTRIES;
	local_irq_save(flags);
	for (; level > request->level && !error; level--) {
		error = get_kernel_nofault(entry, &table[level_index(request->address, level)]);
		if (!error) {
			table = follow(entry);
			error = table ? 0 : -ENODATA;
		}
	}
	/* Eight bytes at a time, so no entry is torn. */
	if (!error)
		error = copy_from_kernel_nofault(to, table, PAGE_SIZE);
	local_irq_restore(flags);
	if (error)
		return -ENODATA;
	request->frame = __pa(table);
	return 0;
}

/*
 * Whether a VMA needs the table that is asked for; the mmap lock is held. What holds none is being
 * unmapped at this moment, or has no table.
 */
static bool has_vma(struct mm_struct *mm, const struct mematlas_request *request)
{
	unsigned long size = 1UL << level_shift(request->level + 1);
	unsigned long start = request->address & (BIT_ULL(level_shift(nr_levels())) - 1);
	struct vm_area_struct *vma;

	start &= ~(size - 1);
	vma = find_vma(mm, start);
	return vma && vma->vm_start <= start + size - 1;
}

static int copy_table(struct mm_struct *mm, struct mematlas_request *request, u64 *to)
{
	unsigned int top = nr_levels() - 1;
	int error;

	if (request->level > top || request->flags & ~REQUEST_USER_PGD || request->reserved)
		return -EINVAL;
	if ((request->flags & REQUEST_USER_PGD) && !is_isolated())
		return -EINVAL;
	/* The top table stays while the mm_struct does. */
	if (request->level == top)
		return walk_and_copy(mm, request, to);
	if (!mmget_not_zero(mm)) {
		/*
		 * The process has ended, and its user tables with it. The kernel half is
		 * everybody's, but for the tables of an LDT under isolation, which an exit frees:
		 * so it is read as the caller has it.
		 */
		if (is_kernel_half(request->address) && current->mm)
			return walk_and_copy(current->mm, request, to);
		return -ESRCH;
	}
	if (is_kernel_half(request->address)) {
		error = walk_and_copy(mm, request, to);
	} else {
		error = mmap_read_lock_killable(mm);
		if (!error) {
			error = has_vma(mm, request) ? walk_and_copy(mm, request, to) : -ENODATA;
			mmap_read_unlock(mm);
		}
	}
	mmput(mm);
	return error;
}

/*
 * Return the mm of a process, or of the caller, held by mm_count: its memory is freed when it ends
 * all the same.
 */
static struct mm_struct *grab_mm(struct pid *pid)
{
	struct task_struct *task = NULL;
	struct mm_struct *mm;

	if (pid) {
		task = get_pid_task(pid, PIDTYPE_PID);
		if (!task)
			return ERR_PTR(-ESRCH);
	}
	/* Refuses kernel threads, also those that have borrowed an mm. */
	mm = get_task_mm(task ?: current);
	if (task)
		put_task_struct(task);
	if (!mm)
		return ERR_PTR(-ESRCH);
	mmgrab(mm);
	mmput(mm);
	return mm;
}

static struct table_file *new_file(struct file *file)
{
	struct table_file *opened;
	int error = may_open();

	if (error)
		return ERR_PTR(error);
	opened = kzalloc(sizeof(*opened), GFP_KERNEL);
	if (!opened)
		return ERR_PTR(-ENOMEM);
	opened->table = (u64 *)__get_free_page(GFP_KERNEL);
	if (!opened->table) {
		kfree(opened);
		return ERR_PTR(-ENOMEM);
	}
	mutex_init(&opened->lock);
	file->private_data = opened;
	return opened;
}

static void free_file(struct table_file *opened)
{
	if (opened->mm)
		mmdrop(opened->mm);
	free_page((unsigned long)opened->table);
	kfree(opened);
}

static int release_file(struct inode *inode, struct file *file)
{
	free_file(file->private_data);
	return 0;
}

/* pgd, p4d, pud, pmd, pte */

static int level_of_name(const struct file *file)
{
	unsigned int level = (uintptr_t)file_inode(file)->i_private;

	/* With four levels there is no P4D, and the PGD is where it would be. */
	if (nr_levels() == NR_LEVELS_MAX)
		return level;
	if (level == 3)
		return -EOPNOTSUPP;
	return min(level, 3U);
}

static int table_open(struct inode *inode, struct file *file)
{
	struct table_file *opened;
	struct pid *pid;
	struct mm_struct *mm;
	unsigned int level;
	int own = level_of_name(file);

	opened = new_file(file);
	if (IS_ERR(opened))
		return PTR_ERR(opened);
	if (own < 0) {
		free_file(opened);
		return own;
	}
	opened->request.level = own;
	mutex_lock(&chosen_lock);
	pid = get_pid(chosen_pid);
	for (level = own + 1; level < nr_levels(); level++) {
		bool is_top = level == nr_levels() - 1;
		u64 index = chosen_index[is_top ? NR_LEVELS_MAX - 1 : level];

		opened->request.address |= index << level_shift(level);
	}
	mutex_unlock(&chosen_lock);
	mm = grab_mm(pid);
	put_pid(pid);
	if (IS_ERR(mm)) {
		free_file(opened);
		return PTR_ERR(mm);
	}
	opened->mm = mm;
	return 0;
}

/* Every read from the start sees the table as it is now; the rest of it is of the same moment. */
static ssize_t table_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	struct table_file *opened = file->private_data;
	ssize_t result = mutex_lock_killable(&opened->lock);

	if (result)
		return result;
	if (!opened->filled || *at == 0) {
		result = copy_table(opened->mm, &opened->request, opened->table);
		opened->filled = !result;
	}
	if (!result)
		result = simple_read_from_buffer(to, size, at, opened->table, PAGE_SIZE);
	mutex_unlock(&opened->lock);
	return result;
}

static const struct file_operations table_operations = {
	.owner = THIS_MODULE,
	.open = table_open,
	.read = table_read,
	.llseek = default_llseek,
	.release = release_file,
};

/* tables */

static int tables_open(struct inode *inode, struct file *file)
{
	return PTR_ERR_OR_ZERO(new_file(file));
}

static long select_mm(struct table_file *opened, void __user *argument)
{
	struct mematlas_select select;
	struct pid *pid = NULL;
	struct mm_struct *mm;

	if (copy_from_user(&select, argument, sizeof(select)))
		return -EFAULT;
	if (select.pid < 0 || select.reserved)
		return -EINVAL;
	if (select.pid) {
		pid = find_get_pid(select.pid);
		if (!pid)
			return -ESRCH;
	}
	mm = grab_mm(pid);
	put_pid(pid);
	if (IS_ERR(mm))
		return PTR_ERR(mm);
	if (opened->mm)
		mmdrop(opened->mm);
	opened->mm = mm;
	select.pgd = __pa(mm->pgd);
	return copy_to_user(argument, &select, sizeof(select)) ? -EFAULT : 0;
}

static long copy_one(struct table_file *opened, struct mematlas_request __user *where,
		     u8 __user *to)
{
	struct mematlas_request request;

	if (copy_from_user(&request, where, sizeof(request)))
		return -EFAULT;
	request.frame = 0;
	request.error = copy_table(opened->mm, &request, opened->table);
	/* Killed while it waited: that is for the whole call. */
	if (request.error == -EINTR)
		return request.error;
	if (!request.error && copy_to_user(to, opened->table, PAGE_SIZE))
		return -EFAULT;
	return copy_to_user(where, &request, sizeof(request)) ? -EFAULT : 0;
}

static long copy_tables(struct table_file *opened, void __user *argument)
{
	struct mematlas_request __user *requests;
	struct mematlas_copy copy;
	long error = 0;
	u8 __user *to;
	u32 i;

	if (copy_from_user(&copy, argument, sizeof(copy)))
		return -EFAULT;
	if (copy.nr > NR_REQUESTS_MAX || copy.reserved)
		return -EINVAL;
	if (!opened->mm)
		return -EBADFD;
	requests = u64_to_user_ptr(copy.requests);
	to = u64_to_user_ptr(copy.tables);
	for (i = 0; i < copy.nr && !error; i++) {
		error = copy_one(opened, requests + i, to + (size_t)i * PAGE_SIZE);
		cond_resched();
	}
	return error;
}

static long tables_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct table_file *opened = file->private_data;
	long result = mutex_lock_killable(&opened->lock);

	if (result)
		return result;
	switch (command) {
	case MEMATLAS_SELECT:
		result = select_mm(opened, (void __user *)argument);
		break;
	case MEMATLAS_COPY:
		result = copy_tables(opened, (void __user *)argument);
		break;
	default:
		result = -ENOTTY;
	}
	mutex_unlock(&opened->lock);
	return result;
}

static const struct file_operations tables_operations = {
	.owner = THIS_MODULE,
	.open = tables_open,
	.unlocked_ioctl = tables_ioctl,
	.release = release_file,
};

/* What is chosen: short lines of text, written at once. */

static int setting_open(struct inode *inode, struct file *file)
{
	return may_open();
}

#define LINE_SIZE	16

static int copy_line(char *text, const char __user *from, size_t size, loff_t at)
{
	/* Digits that came one by one would choose another number. */
	if (at || size >= LINE_SIZE)
		return -EINVAL;
	if (copy_from_user(text, from, size))
		return -EFAULT;
	text[size] = '\0';
	return strlen(text) == size ? 0 : -EINVAL;
}

/* pid */

static ssize_t pid_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	char text[LINE_SIZE];
	int length, number = 0;

	mutex_lock(&chosen_lock);
	if (chosen_pid) {
		rcu_read_lock();
		/* It may have ended, or be in no PID namespace of ours. */
		if (pid_task(chosen_pid, PIDTYPE_PID))
			number = pid_vnr(chosen_pid);
		rcu_read_unlock();
		length = number ? scnprintf(text, sizeof(text), "%d\n", number) : -ESRCH;
	} else {
		length = scnprintf(text, sizeof(text), "self\n");
	}
	mutex_unlock(&chosen_lock);
	if (length < 0)
		return length;
	return simple_read_from_buffer(to, size, at, text, length);
}

static ssize_t pid_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	struct pid *pid = NULL;
	char text[LINE_SIZE];
	int number;
	int error = copy_line(text, from, size, *at);

	if (error)
		return error;
	if (!sysfs_streq(text, "self")) {
		if (kstrtoint(text, 10, &number) || number <= 0)
			return -EINVAL;
		pid = find_get_pid(number);
		if (!pid)
			return -ESRCH;
	}
	mutex_lock(&chosen_lock);
	swap(pid, chosen_pid);
	mutex_unlock(&chosen_lock);
	put_pid(pid);
	*at += size;
	return size;
}

static const struct file_operations pid_operations = {
	.owner = THIS_MODULE,
	.open = setting_open,
	.read = pid_read,
	.write = pid_write,
	.llseek = default_llseek,
};

/* pgdindex, p4dindex, pudindex, pmdindex */

static ssize_t index_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	unsigned int *index = file_inode(file)->i_private;
	char text[LINE_SIZE];
	int length;

	mutex_lock(&chosen_lock);
	length = scnprintf(text, sizeof(text), "%u\n", *index);
	mutex_unlock(&chosen_lock);
	return simple_read_from_buffer(to, size, at, text, length);
}

static ssize_t index_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	unsigned int *index = file_inode(file)->i_private;
	char text[LINE_SIZE];
	unsigned int value;
	int error = copy_line(text, from, size, *at);

	if (!error)
		error = kstrtouint(text, 10, &value);
	if (error)
		return error;
	if (value >= NR_ENTRIES)
		return -ERANGE;
	mutex_lock(&chosen_lock);
	*index = value;
	mutex_unlock(&chosen_lock);
	*at += size;
	return size;
}

static const struct file_operations index_operations = {
	.owner = THIS_MODULE,
	.open = setting_open,
	.read = index_read,
	.write = index_write,
	.llseek = default_llseek,
};

/* info */

static int info_show(struct seq_file *file, void *unused)
{
	seq_printf(file, "abi %d\n", ABI_VERSION);
	seq_printf(file, "levels %u\n", nr_levels());
	seq_printf(file, "page_offset %#lx\n", PAGE_OFFSET);
	seq_printf(file, "pti %d\n", is_isolated());
	/* The bits of an entry that are an address: not the one that says encrypted. */
	seq_printf(file, "address_mask %#llx\n", (u64)PTE_PFN_MASK);
	return 0;
}

static int info_open(struct inode *inode, struct file *file)
{
	return may_open() ?: single_open(file, info_show, NULL);
}

static const struct file_operations info_operations = {
	.owner = THIS_MODULE,
	.open = info_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = single_release,
};

static const char *const names[NR_LEVELS_MAX] = { "pte", "pmd", "pud", "p4d", "pgd" };
static const char *const index_names[NR_LEVELS_MAX] = {
	NULL, "pmdindex", "pudindex", "p4dindex", "pgdindex"
};

static int __init mematlas_init(void)
{
	uintptr_t level;

	/* There the entries name frames of the machine, not ours. */
	if (boot_cpu_has(X86_FEATURE_XENPV))
		return -ENODEV;
	/* What debugfs refuses to make is a file that is not there, and harms nothing else. */
	directory = debugfs_create_dir("mematlas", NULL);
	if (IS_ERR(directory))
		return PTR_ERR(directory);
	debugfs_create_file("info", 0400, directory, NULL, &info_operations);
	debugfs_create_file("pid", 0600, directory, NULL, &pid_operations);
	debugfs_create_file("tables", 0400, directory, NULL, &tables_operations);
	for (level = 0; level < NR_LEVELS_MAX; level++) {
		debugfs_create_file(names[level], 0400, directory, (void *)level,
				    &table_operations);
		if (index_names[level])
			debugfs_create_file(index_names[level], 0600, directory,
					    &chosen_index[level], &index_operations);
	}
	return 0;
}

static void __exit mematlas_exit(void)
{
	/* Waits for calls that are running; an open table keeps us from coming here at all. */
	debugfs_remove(directory);
	put_pid(chosen_pid);
}

module_init(mematlas_init);
module_exit(mematlas_exit);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_AUTHOR("The mematlas authors");
MODULE_DESCRIPTION("Raw page tables of processes and of the kernel, read-only, in debugfs");
MODULE_VERSION("1");
