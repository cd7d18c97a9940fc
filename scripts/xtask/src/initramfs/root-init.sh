#!/bin/busybox sh
# The init of the example's root filesystem: a shell on the console.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin PS1='# ' HOME=/root
stty columns 1000
mount -t tmpfs tmpfs /tmp
hostname ballast-pi
[ -x /sbin/job ] && . /sbin/job
echo "guest $(sed -n 's/.*guest=\([^ ]*\).*/\1/p' /proc/cmdline) is up: Linux $(uname -r), $(nproc) CPU, $(awk '/MemTotal/ { print $2 }' /proc/meminfo) KiB, root on $(awk '$2 == "/" && $1 != "rootfs" { print $1 }' /proc/mounts)"
cd /root
# What busybox's halt, poweroff and reboot ask of process 1, which has to look up for it.
trap 'sync; halt -f' USR1
trap 'sync; poweroff -f' USR2
trap 'sync; reboot -f' TERM
while :; do
	setsid cttyhack sh < /dev/console &
	wait $!
done
