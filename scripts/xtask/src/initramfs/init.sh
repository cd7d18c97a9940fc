#!/bin/busybox sh
# The init of a Ballast test guest: a shell on the console with the balloon loaded.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin PS1='# '
stty columns 1000
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=0 tmpfs /tmp
# Kernel messages stay in the log: on the console they would cut into what a test reads.
dmesg -n 1
[ -f /lib/ballast_balloon.ko ] && ! grep -qw noballoon /proc/cmdline && insmod /lib/ballast_balloon.ko verify=1
swap=$(sed -n 's/.*swap=\([0-9]*\).*/\1/p' /proc/cmdline)
if [ -n "$swap" ]; then
	while read -r module; do insmod "/lib/$module.ko"; done < /lib/order
	echo "${swap}M" > /sys/block/zram0/disksize
	mkswap /dev/zram0 > /dev/null && swapon /dev/zram0
fi
[ -x /sbin/job ] && . /sbin/job
echo "guest $(sed -n 's/.*guest=\([^ ]*\).*/\1/p' /proc/cmdline) is up: Linux $(uname -r), $(nproc) CPU, $(awk '/MemTotal/ { print $2 }' /proc/meminfo) KiB"
cd /tmp
# What busybox's halt, poweroff and reboot ask of process 1, which has to look up for it.
trap 'sync; halt -f' USR1
trap 'sync; poweroff -f' USR2
trap 'sync; reboot -f' TERM
while :; do
	setsid cttyhack sh < /dev/console &
	wait $!
done
