// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/ballast-control: the hypervisor's monitor, for a guest that has the right to it.
 *
 * One write is one command, without or with its end of line; reading gives the answer to its end. Who may open the
 * device may do all that the operator may, so it is root's alone unless udev says otherwise.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/arm-smccc.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "ballast.h"

/* guest-balloon/abi: function::CONTROL, function::CONTROL_ANSWER, control, Status. */
#define CONTROL		0xc6000020UL
#define CONTROL_ANSWER	0xc6000021UL
#define LINE_BYTES	120
#define ANSWER_BYTES	128
#define STATUS_INVALID	(-2L)
#define STATUS_DENIED	(-3L)
#define STATUS_BUSY	(-4L)

/* Longest answer kept: the log is the longest there is. */
#define ANSWER_MAX	SZ_256K

/* x0 to x17, as the call sees them. */
union registers {
	struct arm_smccc_1_2_regs regs;
	struct {
		unsigned long x0, x1;
		char bytes[ANSWER_BYTES];
	};
};

/* One command and its answer at a time: the hypervisor keeps one conversation for each guest. */
static DEFINE_MUTEX(conversation);

struct answer {
	struct mutex lock;
	char *text;
	size_t length;
};

static long begin(const char *line, size_t length)
{
	union registers call = { .x0 = CONTROL, .x1 = length };

	memcpy(call.bytes, line, length);
	arm_smccc_1_2_hvc(&call.regs, &call.regs);
	return call.x0;
}

/* The next piece of the answer, 0 at its end. */
static size_t next_piece(char *piece)
{
	union registers call = { .x0 = CONTROL_ANSWER };

	arm_smccc_1_2_hvc(&call.regs, &call.regs);
	if (call.x0 || call.x1 > ANSWER_BYTES)
		return 0;
	memcpy(piece, call.bytes, call.x1);
	return call.x1;
}

static int converse(struct answer *answer, const char *line, size_t length)
{
	char piece[ANSWER_BYTES];
	size_t count, dropped = 0;
	long status;

	answer->length = 0;
	status = begin(line, length);
	/* Whoever asked before was killed before it had read all. */
	while (status == STATUS_BUSY && dropped < ANSWER_MAX) {
		count = next_piece(piece);
		dropped += count;
		if (!count)
			status = begin(line, length);
	}
	if (status == STATUS_DENIED)
		return -EPERM;
	if (status == STATUS_INVALID)
		return -EINVAL;
	if (status)
		return -EIO;
	while ((count = next_piece(piece))) {
		if (answer->length + count > ANSWER_MAX)
			return -EMSGSIZE;
		memcpy(answer->text + answer->length, piece, count);
		answer->length += count;
	}
	return 0;
}

static int control_open(struct inode *inode, struct file *file)
{
	struct answer *answer = kzalloc(sizeof(*answer), GFP_KERNEL);

	if (!answer)
		return -ENOMEM;
	answer->text = kvmalloc(ANSWER_MAX, GFP_KERNEL);
	if (!answer->text) {
		kfree(answer);
		return -ENOMEM;
	}
	mutex_init(&answer->lock);
	file->private_data = answer;
	return nonseekable_open(inode, file);
}

static int control_release(struct inode *inode, struct file *file)
{
	struct answer *answer = file->private_data;

	kvfree(answer->text);
	kfree(answer);
	return 0;
}

static ssize_t control_write(struct file *file, const char __user *from, size_t count, loff_t *at)
{
	struct answer *answer = file->private_data;
	char line[LINE_BYTES + 1];
	size_t length = count;
	int error;

	if (!count || count > sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, from, count))
		return -EFAULT;
	if (line[length - 1] == '\n')
		length--;
	if (length > LINE_BYTES)
		return -EINVAL;
	mutex_lock(&answer->lock);
	mutex_lock(&conversation);
	error = converse(answer, line, length);
	mutex_unlock(&conversation);
	/* Each answer is read from its beginning. */
	*at = 0;
	mutex_unlock(&answer->lock);
	return error ?: count;
}

static ssize_t control_read(struct file *file, char __user *to, size_t count, loff_t *at)
{
	struct answer *answer = file->private_data;
	ssize_t read;

	mutex_lock(&answer->lock);
	read = simple_read_from_buffer(to, count, at, answer->text, answer->length);
	mutex_unlock(&answer->lock);
	return read;
}

static const struct file_operations control_operations = {
	.owner = THIS_MODULE,
	.open = control_open,
	.release = control_release,
	.read = control_read,
	.write = control_write,
};

static struct miscdevice control_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "ballast-control",
	.mode = 0600,
	.fops = &control_operations,
};

static bool is_registered;

int ballast_control_init(void)
{
	/* An empty line asks whether the guest may. */
	long status = begin("", 0);
	int error;

	if (status == STATUS_DENIED || status == SMCCC_RET_NOT_SUPPORTED)
		return 0;
	error = misc_register(&control_device);
	is_registered = !error;
	return error;
}

void ballast_control_exit(void)
{
	if (is_registered)
		misc_deregister(&control_device);
	is_registered = false;
}
