// SPDX-License-Identifier: GPL-2.0-only
/*
 * CPUs as a balloon: the kernel's hotplug as the driver core uses it, and the thread that follows the CPU target.
 *
 * The thread is not the one that moves memory, and holds no lock that memory needs: taking a CPU offline takes tens
 * of milliseconds and may allocate.
 *
 * A CPU that PSCI refused at boot is present and not online; bringing it online asks PSCI again.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/device.h>
#include <linux/kthread.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/sysfs.h>
#include <linux/wait.h>

#include "ballast.h"

enum { STATE_ABSENT, STATE_OFFLINE, STATE_ONLINE };
enum { MOVED, DENIED, FAILED };

static struct ballast_cpus *core;
/* Serialises the core. */
static DEFINE_MUTEX(lock);
static struct task_struct *thread;
static DECLARE_WAIT_QUEUE_HEAD(wait);
static bool kicked;
/* The target fetched last: its sequence in 63:32. */
static atomic64_t wanted;
/* CPUs that this module has taken offline. */
static struct cpumask taken;
/* Leaving: others than those are left alone. */
static bool leaving;

u32 ballast_front_cpus(void)
{
	return nr_cpu_ids;
}

u32 ballast_front_cpu_state(u32 cpu)
{
	if (cpu >= nr_cpu_ids || !cpu_present(cpu))
		return STATE_ABSENT;
	if (cpu_online(cpu))
		return STATE_ONLINE;
	return leaving && !cpumask_test_cpu(cpu, &taken) ? STATE_ABSENT : STATE_OFFLINE;
}

u32 ballast_front_cpu_take_offline(u32 cpu)
{
	if (remove_cpu(cpu) < 0)
		return FAILED;
	cpumask_set_cpu(cpu, &taken);
	return MOVED;
}

u32 ballast_front_cpu_bring_online(u32 cpu)
{
	int error = add_cpu(cpu);

	if (error >= 0)
		cpumask_clear_cpu(cpu, &taken);
	/* PSCI's DENIED, in psci_to_linux_errno(). */
	return error >= 0 ? MOVED : error == -EPERM ? DENIED : FAILED;
}

static bool is_kicked(void)
{
	return READ_ONCE(kicked) || kthread_should_stop();
}

static int work(void *unused)
{
	u64 wait_ns = 0;
	u32 next = BALLAST_AGAIN;

	while (!kthread_should_stop()) {
		if (next == BALLAST_IDLE)
			wait_event_interruptible(wait, is_kicked());
		else if (next == BALLAST_WAIT)
			wait_event_interruptible_timeout(wait, is_kicked(), max(nsecs_to_jiffies(wait_ns), 1UL));
		WRITE_ONCE(kicked, false);
		if (kthread_should_stop())
			break;
		mutex_lock(&lock);
		ballast_cpus_target(core, atomic64_read(&wanted));
		next = ballast_cpus_step(core, &wait_ns);
		mutex_unlock(&lock);
		cond_resched();
	}
	return 0;
}

void ballast_cpus_follow(u64 target)
{
	if (atomic64_xchg(&wanted, target) == target)
		return;
	WRITE_ONCE(kicked, true);
	wake_up(&wait);
}

int ballast_cpus_start(void)
{
	core = kzalloc(ballast_cpus_size(), GFP_KERNEL);
	if (!core)
		return -ENOMEM;
	ballast_cpus_init(core);
	atomic64_set(&wanted, 0);
	cpumask_clear(&taken);
	leaving = false;
	thread = kthread_run(work, NULL, "ballast-cpus");
	if (IS_ERR(thread)) {
		kfree(core);
		core = NULL;
		return PTR_ERR(thread);
	}
	return 0;
}

/* Brings those back that this module has taken, as far as Ballast grants. */
void ballast_cpus_stop(void)
{
	u64 wait_ns;

	kthread_stop(thread);
	mutex_lock(&lock);
	leaving = true;
	ballast_cpus_drain(core);
	while (ballast_cpus_step(core, &wait_ns) == BALLAST_AGAIN)
		cond_resched();
	if (!cpumask_empty(&taken))
		pr_info("CPUs %*pbl stay offline: Ballast has no cores for them\n", cpumask_pr_args(&taken));
	kfree(core);
	core = NULL;
	mutex_unlock(&lock);
}

/* One file for each number; README.md says what they mean. */
#define NUMBER(_name, _field)								\
static ssize_t _name##_show(struct device *dev, struct device_attribute *attr, char *buf) \
{											\
	struct ballast_cpus_status status = {};						\
											\
	mutex_lock(&lock);								\
	if (core)									\
		ballast_cpus_status(core, &status);					\
	mutex_unlock(&lock);								\
	return sysfs_emit(buf, "%llu\n", (unsigned long long)status._field);		\
}											\
static DEVICE_ATTR_RO(_name)

NUMBER(cpus_taken_offline, taken_offline);
NUMBER(cpus_brought_online, brought_online);
NUMBER(cpus_denied, denied);
NUMBER(cpus_failed, failed);

static struct attribute *attrs[] = {
	&dev_attr_cpus_taken_offline.attr,
	&dev_attr_cpus_brought_online.attr,
	&dev_attr_cpus_denied.attr,
	&dev_attr_cpus_failed.attr,
	NULL
};

const struct attribute_group ballast_cpus_group = { .attrs = attrs };
