// SPDX-License-Identifier: GPL-2.0-only
/*
 * Channels of the Ballast hypervisor: memory shared with another guest, with a doorbell, as /dev/ballast-LABEL.
 *
 * mmap() gives the memory, write() rings, poll() and read() wait for events. Each open file has its own events, so
 * several programs can listen. The interrupt is an edge, and its handler fetches: nothing is lost and nothing comes
 * again before it was fetched.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/arm-smccc.h>
#include <linux/fs.h>
#include <linux/interrupt.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/of.h>
#include <linux/platform_device.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/wait.h>

#include "ballast.h"

struct channel {
	struct miscdevice misc;
	struct device *dev;
	struct resource *memory;
	u32 number;
	bool read_only;
	wait_queue_head_t wait;
	/* Protects all below; taken by the interrupt. */
	spinlock_t lock;
	struct list_head listeners;
	struct ballast_channel_event last;
	bool gone;
	/* Open files, and one for the device. */
	struct kref users;
};

/* One open file. */
struct listener {
	struct channel *channel;
	struct list_head node;
	u32 events;
};

static void channel_free(struct kref *users)
{
	struct channel *channel = container_of(users, struct channel, users);

	kfree(channel->misc.name);
	kfree(channel);
}

/* Fetches what has happened and tells every listener. */
static int fetch(struct channel *channel)
{
	struct arm_smccc_res res;
	struct listener *listener;
	unsigned long flags;
	u32 events;

	/* Under the lock: of two fetches the later one's state counts. */
	spin_lock_irqsave(&channel->lock, flags);
	arm_smccc_1_1_hvc(BALLAST_FN_CHANNEL, channel->number, &res);
	if (res.a0) {
		spin_unlock_irqrestore(&channel->lock, flags);
		return -ENODEV;
	}
	events = res.a1;
	channel->last.generation = res.a2;
	channel->last.events = res.a2 & BALLAST_PEER_RUNNING ? BALLAST_EVENT_RUNNING : 0;
	list_for_each_entry(listener, &channel->listeners, node)
		listener->events |= events;
	spin_unlock_irqrestore(&channel->lock, flags);
	wake_up_interruptible(&channel->wait);
	return 0;
}

static irqreturn_t channel_interrupt(int irq, void *data)
{
	fetch(data);
	return IRQ_HANDLED;
}

static int channel_open(struct inode *inode, struct file *file)
{
	/* misc_open() has put the miscdevice there, and keeps misc_deregister() out until this returns. */
	struct channel *channel = container_of(file->private_data, struct channel, misc);
	struct listener *listener = kzalloc(sizeof(*listener), GFP_KERNEL);

	if (!listener)
		return -ENOMEM;
	kref_get(&channel->users);
	listener->channel = channel;
	spin_lock_irq(&channel->lock);
	list_add(&listener->node, &channel->listeners);
	spin_unlock_irq(&channel->lock);
	file->private_data = listener;
	return stream_open(inode, file);
}

static int channel_release(struct inode *inode, struct file *file)
{
	struct listener *listener = file->private_data;
	struct channel *channel = listener->channel;

	spin_lock_irq(&channel->lock);
	list_del(&listener->node);
	spin_unlock_irq(&channel->lock);
	kfree(listener);
	kref_put(&channel->users, channel_free);
	return 0;
}

static bool has_events(struct listener *listener)
{
	return READ_ONCE(listener->events) || READ_ONCE(listener->channel->gone);
}

/* struct ballast_channel_event: what has happened since this file's last read; waits for something. */
static ssize_t channel_read(struct file *file, char __user *to, size_t bytes, loff_t *offset)
{
	struct listener *listener = file->private_data;
	struct channel *channel = listener->channel;
	struct ballast_channel_event event;
	int error;

	if (bytes < sizeof(event))
		return -EINVAL;
	do {
		if (!has_events(listener)) {
			if (file->f_flags & O_NONBLOCK)
				return -EAGAIN;
			error = wait_event_interruptible(channel->wait, has_events(listener));
			if (error)
				return error;
		}
		if (READ_ONCE(channel->gone))
			return -ENODEV;
		spin_lock_irq(&channel->lock);
		event = channel->last;
		event.events |= listener->events;
		bytes = listener->events ? sizeof(event) : 0;
		listener->events = 0;
		spin_unlock_irq(&channel->lock);
		/* Another thread may have read it from under this one. */
	} while (!bytes);
	return copy_to_user(to, &event, sizeof(event)) ? -EFAULT : sizeof(event);
}

/* Whatever is written: rings. EPIPE: nobody is there to hear it. */
static ssize_t channel_write(struct file *file, const char __user *from, size_t bytes, loff_t *offset)
{
	struct listener *listener = file->private_data;
	struct channel *channel = listener->channel;
	struct arm_smccc_res res;

	if (!bytes)
		return 0;
	if (READ_ONCE(channel->gone))
		return -ENODEV;
	arm_smccc_1_1_hvc(BALLAST_FN_SIGNAL, channel->number, &res);
	if ((long)res.a0 == BALLAST_PEER_STOPPED)
		return -EPIPE;
	return res.a0 ? -EIO : bytes;
}

static __poll_t channel_poll(struct file *file, poll_table *table)
{
	struct listener *listener = file->private_data;
	struct channel *channel = listener->channel;

	poll_wait(file, &channel->wait, table);
	if (READ_ONCE(channel->gone))
		return EPOLLHUP | EPOLLERR;
	return (has_events(listener) ? EPOLLIN | EPOLLRDNORM : 0) | EPOLLOUT | EPOLLWRNORM;
}

static int channel_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct listener *listener = file->private_data;
	struct channel *channel = listener->channel;
	unsigned long pages = vma_pages(vma);
	resource_size_t start = channel->memory->start, size = resource_size(channel->memory);

	/* What is beside the memory is not the guest's; with large pages it may be in the same one. */
	if (!PAGE_ALIGNED(start) || !PAGE_ALIGNED(size) || !(vma->vm_flags & VM_SHARED) ||
	    vma->vm_pgoff > size >> PAGE_SHIFT || pages > (size >> PAGE_SHIFT) - vma->vm_pgoff)
		return -EINVAL;
	if (READ_ONCE(channel->gone))
		return -ENODEV;
	if (channel->read_only) {
		if (vma->vm_flags & VM_WRITE)
			return -EACCES;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
		vm_flags_clear(vma, VM_MAYWRITE);
#else
		vma->vm_flags &= ~VM_MAYWRITE;
#endif
	}
	/* Ballast lets nobody execute it. As other RAM: cacheable. The memory stays when the driver goes. */
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_clear(vma, VM_MAYEXEC);
#else
	vma->vm_flags &= ~VM_MAYEXEC;
#endif
	return remap_pfn_range(vma, vma->vm_start, (start >> PAGE_SHIFT) + vma->vm_pgoff, pages << PAGE_SHIFT,
			       vma->vm_page_prot);
}

static const struct file_operations channel_operations = {
	.owner = THIS_MODULE,
	.open = channel_open,
	.release = channel_release,
	.read = channel_read,
	.write = channel_write,
	.poll = channel_poll,
	.mmap = channel_mmap,
};

static ssize_t size_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct channel *channel = dev_get_drvdata(dev);

	return sysfs_emit(buf, "%llu\n", (u64)resource_size(channel->memory));
}
static DEVICE_ATTR_RO(size);

static struct attribute *channel_attrs[] = {
	&dev_attr_size.attr,
	NULL
};
ATTRIBUTE_GROUPS(channel);

static int channel_probe(struct platform_device *pdev)
{
	struct device *dev = &pdev->dev;
	struct channel *channel;
	const char *label;
	int irq, error;

	channel = kzalloc(sizeof(*channel), GFP_KERNEL);
	if (!channel)
		return -ENOMEM;
	kref_init(&channel->users);
	init_waitqueue_head(&channel->wait);
	spin_lock_init(&channel->lock);
	INIT_LIST_HEAD(&channel->listeners);
	channel->dev = dev;
	channel->read_only = of_property_read_bool(dev->of_node, "read-only");
	channel->memory = platform_get_resource(pdev, IORESOURCE_MEM, 0);
	error = -EINVAL;
	if (!channel->memory || of_property_read_u32(dev->of_node, "ballast,channel", &channel->number) ||
	    of_property_read_string(dev->of_node, "label", &label))
		goto out;
	channel->misc.minor = MISC_DYNAMIC_MINOR;
	channel->misc.fops = &channel_operations;
	channel->misc.parent = dev;
	error = -ENOMEM;
	channel->misc.name = kasprintf(GFP_KERNEL, "ballast-%s", label);
	if (!channel->misc.name)
		goto out;
	/* What happened before is over, and the next event interrupts. */
	error = fetch(channel);
	if (error) {
		dev_err(dev, "Ballast does not know channel %u\n", channel->number);
		goto out;
	}
	error = irq = platform_get_irq(pdev, 0);
	if (irq < 0)
		goto out;
	error = devm_request_irq(dev, irq, channel_interrupt, 0, channel->misc.name, channel);
	if (error)
		goto out;
	error = misc_register(&channel->misc);
	if (error) {
		devm_free_irq(dev, irq, channel);
		goto out;
	}
	platform_set_drvdata(pdev, channel);
	dev_info(dev, "%s: %llu KiB, %s\n", label, (u64)resource_size(channel->memory) >> 10,
		 channel->read_only ? "read-only" : "read-write");
	return 0;

out:
	kref_put(&channel->users, channel_free);
	return error;
}

/* Files that are open stay so and say ENODEV; what is mapped stays mapped, as the memory stays. */
static void channel_leave(struct platform_device *pdev)
{
	struct channel *channel = platform_get_drvdata(pdev);

	misc_deregister(&channel->misc);
	devm_free_irq(&pdev->dev, platform_get_irq(pdev, 0), channel);
	WRITE_ONCE(channel->gone, true);
	wake_up_interruptible(&channel->wait);
	kref_put(&channel->users, channel_free);
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
static void channel_remove(struct platform_device *pdev)
{
	channel_leave(pdev);
}
#else
static int channel_remove(struct platform_device *pdev)
{
	channel_leave(pdev);
	return 0;
}
#endif

static const struct of_device_id channel_match[] = {
	{ .compatible = "ballast,shared-memory" },
	{}
};
MODULE_DEVICE_TABLE(of, channel_match);

struct platform_driver ballast_channel_driver = {
	.probe = channel_probe,
	.remove = channel_remove,
	.driver = {
		.name = "ballast-channel",
		.of_match_table = channel_match,
		.dev_groups = channel_groups,
	},
};
