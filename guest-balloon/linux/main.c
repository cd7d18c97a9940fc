// SPDX-License-Identifier: GPL-2.0-only
/*
 * The balloon of the Ballast hypervisor: device, interrupt, thread and sysfs around the driver core.
 *
 * Ballast sets how much of the guest's memory shall be reserved and raises an interrupt; the interrupt's thread
 * fetches the target, and the worker steps the core until it is there. At rest nothing runs.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/interrupt.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/of.h>
#include <linux/oom.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/version.h>
#include <linux/wait.h>

#include "ballast.h"

/* What is asked for at once when the kernel is about to kill for memory: 16 MiB, in Ballast's pages. */
#define OOM_NEED_PAGES (SZ_16M >> BALLAST_PAGE_SHIFT)

static unsigned int floor_mib;
module_param(floor_mib, uint, 0444);
MODULE_PARM_DESC(floor_mib, "Available memory that the balloon leaves the guest, MiB (default: 1/16 of its RAM, at least 16)");
module_param_named(verify, ballast_verify, bool, 0644);
MODULE_PARM_DESC(verify, "check that each page that comes back reads zero");
module_param_named(largest_order, ballast_largest_order, uint, 0644);
MODULE_PARM_DESC(largest_order, "order (of 4 KiB) of the largest runs taken from the allocator: 9 (default), 4 or 0, to measure what smaller ones cost");

struct ballast {
	struct device *dev;
	struct ballast_core *core;
	/* The list page of the interface. */
	void *list;
	/* Serialises the core and pages.c. */
	struct mutex lock;
	struct task_struct *worker;
	wait_queue_head_t wait;
	/* There is something to do. Set before wake_up(), cleared by the worker before it looks. */
	bool kicked;
	struct notifier_block oom;
	int irq;
};

static void kick(struct ballast *ballast)
{
	WRITE_ONCE(ballast->kicked, true);
	wake_up(&ballast->wait);
}

static bool is_kicked(struct ballast *ballast)
{
	return READ_ONCE(ballast->kicked) || kthread_should_stop();
}

static int work(void *data)
{
	struct ballast *ballast = data;
	u64 wait_ns = 0;
	u32 next = BALLAST_AGAIN;

	while (!kthread_should_stop()) {
		/* Idle and not to be seen in the load average. */
		if (next == BALLAST_IDLE)
			wait_event_interruptible(ballast->wait, is_kicked(ballast));
		else if (next == BALLAST_WAIT)
			wait_event_interruptible_timeout(ballast->wait, is_kicked(ballast),
							 max(nsecs_to_jiffies(wait_ns), 1UL));
		WRITE_ONCE(ballast->kicked, false);
		if (kthread_should_stop())
			break;
		mutex_lock(&ballast->lock);
		next = ballast_core_step(ballast->core, &wait_ns);
		ballast_cpus_follow(ballast_core_cpu_target(ballast->core));
		mutex_unlock(&ballast->lock);
		cond_resched();
	}
	return 0;
}

/* Threaded and one-shot: the line stays asserted until the target is fetched. */
static irqreturn_t fetch_target(int irq, void *data)
{
	struct ballast *ballast = data;

	mutex_lock(&ballast->lock);
	ballast_core_interrupt(ballast->core);
	ballast_cpus_follow(ballast_core_cpu_target(ballast->core));
	mutex_unlock(&ballast->lock);
	kick(ballast);
	ballast_report_now();
	return IRQ_HANDLED;
}

/* More is promised than has come. */
static bool is_coming(const struct ballast_status *status)
{
	return status->target_pages < status->reserved_pages;
}

static bool lock_before(struct ballast *ballast, unsigned long end)
{
	while (!mutex_trylock(&ballast->lock)) {
		if (time_after_eq(jiffies, end))
			return false;
		msleep(20);
	}
	return true;
}

/*
 * Nothing was free, but the scheduler may take memory from other guests for this one: the worker gets it. A second
 * for that, four if it is promised. Where nothing came not again for a while, unless something has come since.
 */
static void wait_for_others(struct ballast *ballast, struct ballast_status *status)
{
	static unsigned long not_before;
	static u64 in_vain;
	u64 released = status->total_released;
	unsigned long begin = jiffies, end;

	if (not_before && time_before(jiffies, not_before) && released == in_vain && !is_coming(status))
		return;
	do {
		msleep(20);
		end = begin + (is_coming(status) ? 4 * HZ : HZ);
		if (!lock_before(ballast, end))
			break;
		ballast_core_status(ballast->core, status);
		mutex_unlock(&ballast->lock);
		if (status->total_released != released)
			return;
	} while (time_before(jiffies, end));
	not_before = (jiffies + 10 * HZ) | 1;
	in_vain = released;
}

/*
 * The kernel is about to kill for memory: whatever Ballast gives back may save somebody. In the context of whoever
 * allocates, which may be the lock's holder itself: it is tried for, a second. The holder may have to wait for a CPU
 * among those who want memory. The kernel calls one at a time.
 */
static int out_of_memory_soon(struct notifier_block *block, unsigned long action, void *freed)
{
	struct ballast *ballast = container_of(block, struct ballast, oom);
	struct ballast_status status;
	u64 wait_ns, released;

	if (!lock_before(ballast, jiffies + HZ))
		return NOTIFY_OK;
	ballast_core_status(ballast->core, &status);
	released = status.total_released;
	if (status.reserved_pages && ballast_core_pressure(ballast->core, OOM_NEED_PAGES))
		while (ballast_core_step(ballast->core, &wait_ns) == BALLAST_AGAIN)
			;
	ballast_core_status(ballast->core, &status);
	mutex_unlock(&ballast->lock);
	kick(ballast);
	if (status.reserved_pages && status.total_released == released)
		wait_for_others(ballast, &status);
	*(unsigned long *)freed += (status.total_released - released) >> GRANULE;
	return NOTIFY_OK;
}

static void read_status(struct device *dev, struct ballast_status *status)
{
	struct ballast *ballast = dev_get_drvdata(dev);

	mutex_lock(&ballast->lock);
	ballast_core_status(ballast->core, status);
	mutex_unlock(&ballast->lock);
}

/* One file for each number; README.md says what they mean. */
#define NUMBER(_name, _field)								\
static ssize_t _name##_show(struct device *dev, struct device_attribute *attr, char *buf) \
{											\
	struct ballast_status status;							\
											\
	read_status(dev, &status);							\
	return sysfs_emit(buf, "%llu\n", (unsigned long long)status._field);		\
}											\
static DEVICE_ATTR_RO(_name)

NUMBER(reserved_pages, reserved_pages);
NUMBER(target_pages, target_pages);
NUMBER(target_sequence, sequence);
NUMBER(target_cpus, cpu_target);
NUMBER(epoch, epoch);
NUMBER(rate_pages_per_second, rate);
NUMBER(total_reserved_pages, total_reserved);
NUMBER(total_released_pages, total_released);
NUMBER(batches, batches);
NUMBER(strained, strained);
NUMBER(floor_reached, floor);
NUMBER(no_memory, no_memory);
NUMBER(refused, refused);

static ssize_t state_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	static const char *const names[] = { "new", "active", "draining", "stale", "failed" };
	struct ballast_status status;

	read_status(dev, &status);
	return sysfs_emit(buf, "%s\n", status.state < ARRAY_SIZE(names) ? names[status.state] : "?");
}
static DEVICE_ATTR_RO(state);

static ssize_t pages_not_zero_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%ld\n", atomic_long_read(&ballast_pages_not_zero));
}
static DEVICE_ATTR_RO(pages_not_zero);

static struct attribute *ballast_attrs[] = {
	&dev_attr_state.attr,
	&dev_attr_reserved_pages.attr,
	&dev_attr_target_pages.attr,
	&dev_attr_target_sequence.attr,
	&dev_attr_target_cpus.attr,
	&dev_attr_epoch.attr,
	&dev_attr_rate_pages_per_second.attr,
	&dev_attr_total_reserved_pages.attr,
	&dev_attr_total_released_pages.attr,
	&dev_attr_batches.attr,
	&dev_attr_strained.attr,
	&dev_attr_floor_reached.attr,
	&dev_attr_no_memory.attr,
	&dev_attr_refused.attr,
	&dev_attr_pages_not_zero.attr,
	NULL
};

static const struct attribute_group ballast_group = { .attrs = ballast_attrs };
static const struct attribute_group *ballast_groups[] = { &ballast_group, &ballast_cpus_group, NULL };

static int say_hello(struct ballast *ballast)
{
	struct ballast_status status;
	int answer;

	mutex_lock(&ballast->lock);
	ballast_pages_adopting(true);
	answer = ballast_core_hello(ballast->core, ballast->list, virt_to_phys(ballast->list));
	ballast_pages_adopting(false);
	mutex_unlock(&ballast->lock);
	switch (answer) {
	case BALLAST_HELLO_OK:
		break;
	case BALLAST_NOT_BALLAST:
		return dev_err_probe(ballast->dev, -ENODEV, "the hypervisor is not Ballast\n");
	case BALLAST_OTHER_VERSION:
		return dev_err_probe(ballast->dev, -ENODEV, "its balloon interface has another version\n");
	default:
		return dev_err_probe(ballast->dev, -EIO, "Ballast refused the driver\n");
	}
	ballast_core_status(ballast->core, &status);
	dev_info(ballast->dev, "%llu MiB reserved, target %llu MiB\n",
		 status.reserved_pages >> 8, status.target_pages >> 8);
	return 0;
}

/* In the kernel's own pages. */
static u64 floor_pages(void)
{
	if (floor_mib)
		return (u64)floor_mib << (20 - PAGE_SHIFT);
	return max_t(u64, totalram_pages() / 16, SZ_16M >> PAGE_SHIFT);
}

static int ballast_probe(struct platform_device *pdev)
{
	struct ballast *ballast;
	int error;

	ballast = devm_kzalloc(&pdev->dev, sizeof(*ballast), GFP_KERNEL);
	if (!ballast)
		return -ENOMEM;
	ballast->core = devm_kzalloc(&pdev->dev, ballast_core_size(), GFP_KERNEL);
	ballast->list = (void *)devm_get_free_pages(&pdev->dev, GFP_KERNEL | __GFP_ZERO, 0);
	if (!ballast->core || !ballast->list)
		return -ENOMEM;
	ballast->dev = &pdev->dev;
	ballast->oom.notifier_call = out_of_memory_soon;
	mutex_init(&ballast->lock);
	init_waitqueue_head(&ballast->wait);
	ballast->irq = platform_get_irq(pdev, 0);
	if (ballast->irq < 0)
		return ballast->irq;

	error = ballast_pages_init(floor_pages());
	if (error)
		return error;
	error = say_hello(ballast);
	if (error)
		goto pages;
	platform_set_drvdata(pdev, ballast);
	error = ballast_cpus_start();
	if (error)
		goto hello;
	/* Its first step tells the other thread its target. */
	ballast->worker = kthread_run(work, ballast, "ballast-balloon");
	if (IS_ERR(ballast->worker)) {
		error = PTR_ERR(ballast->worker);
		goto cpus;
	}
	error = request_threaded_irq(ballast->irq, NULL, fetch_target, IRQF_ONESHOT, "ballast-balloon", ballast);
	if (error)
		goto worker;
	error = register_oom_notifier(&ballast->oom);
	if (error)
		goto irq;
	error = ballast_control_init();
	if (error)
		goto oom;
	ballast_report_start();
	return 0;

oom:
	unregister_oom_notifier(&ballast->oom);
irq:
	free_irq(ballast->irq, ballast);
worker:
	kthread_stop(ballast->worker);
cpus:
	ballast_cpus_stop();
hello:
	ballast_core_goodbye(ballast->core);
pages:
	ballast_pages_exit();
	return error;
}

/* Returns what Ballast grants; the rest stays offline until the module is loaded again. */
static void ballast_leave(struct platform_device *pdev)
{
	struct ballast *ballast = platform_get_drvdata(pdev);
	struct ballast_status status;
	u64 wait_ns;

	ballast_control_exit();
	ballast_report_stop();
	unregister_oom_notifier(&ballast->oom);
	free_irq(ballast->irq, ballast);
	kthread_stop(ballast->worker);
	ballast_cpus_stop();
	mutex_lock(&ballast->lock);
	ballast_core_drain(ballast->core);
	while (ballast_core_step(ballast->core, &wait_ns) == BALLAST_AGAIN)
		cond_resched();
	ballast_core_status(ballast->core, &status);
	ballast_core_goodbye(ballast->core);
	mutex_unlock(&ballast->lock);
	if (status.reserved_pages)
		dev_info(ballast->dev, "%llu MiB stay reserved and offline\n", status.reserved_pages >> 8);
	ballast_pages_exit();
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
static void ballast_remove(struct platform_device *pdev)
{
	ballast_leave(pdev);
}
#else
static int ballast_remove(struct platform_device *pdev)
{
	ballast_leave(pdev);
	return 0;
}
#endif

static const struct of_device_id ballast_match[] = {
	{ .compatible = "ballast,balloon" },
	{}
};
MODULE_DEVICE_TABLE(of, ballast_match);

static struct platform_driver ballast_driver = {
	.probe = ballast_probe,
	.remove = ballast_remove,
	.driver = {
		.name = "ballast-balloon",
		.of_match_table = ballast_match,
		.dev_groups = ballast_groups,
	},
};

static struct platform_driver *const drivers[] = { &ballast_driver, &ballast_channel_driver };

static int __init ballast_init(void)
{
	return platform_register_drivers(drivers, ARRAY_SIZE(drivers));
}
module_init(ballast_init);

static void __exit ballast_exit(void)
{
	platform_unregister_drivers(drivers, ARRAY_SIZE(drivers));
}
module_exit(ballast_exit);

MODULE_DESCRIPTION("Balloon of the Ballast hypervisor");
MODULE_AUTHOR("The Ballast authors");
MODULE_LICENSE("GPL");
