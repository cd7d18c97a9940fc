#!/bin/busybox sh
# The init of a guest that has the board's SD card: mounts the root filesystem from it and goes on there.
# root=DEVICE on the command line names it; without it, it is the second partition of the first card.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
dmesg -n 1
for module in $(cat /lib/order); do
	insmod "/lib/$module.ko" || echo "initramfs: module $module does not load"
done
# The balloon, as early as can be: until then other guests wait for memory. Its parameters are on the command line.
[ -f /lib/ballast_balloon.ko ] && ! grep -qw noballoon /proc/cmdline &&
	insmod /lib/ballast_balloon.ko $(tr ' ' '\n' < /proc/cmdline | sed -n 's/^ballast_balloon\.//p')

wanted=$(sed -n 's/.*\<root=\([^ ]*\).*/\1/p' /proc/cmdline)
case $wanted in
UUID=* | LABEL=*) find_root() { findfs "$wanted" 2>/dev/null; } ;;
PARTUUID=*) find_root() {
	# Of a partition table as cards have it: the disk's signature and the partition's number.
	for number in /sys/block/*/*/partition; do
		part=${number%/partition} disk=${number%/*/partition}
		id=$(dd if="/dev/${disk##*/}" bs=4 skip=110 count=1 2>/dev/null | od -An -tx4 | tr -d ' ')
		[ "PARTUUID=$id-$(printf %02x "$(cat "$number")")" = "$wanted" ] && echo "/dev/${part##*/}" && return
	done
	return 1
} ;;
/dev/*) find_root() { [ -b "$wanted" ] && echo "$wanted"; } ;;
*) find_root() { for card in /dev/mmcblk?p2; do [ -b "$card" ] && echo "$card" && return; done; } ;;
esac
tries=0
until root=$(find_root) && [ -n "$root" ]; do
	tries=$((tries + 1))
	if [ $tries -gt 300 ]; then
		echo "initramfs: no root filesystem ${wanted:-on an SD card} after 30 s: a shell instead"
		while :; do setsid cttyhack sh; done
	fi
	sleep 0.1
done
mkdir -p /root
if mount -o rw "$root" /root; then
	echo "initramfs: root filesystem on $root"
	mount -o move /dev /root/dev
	mount -o move /sys /root/sys
	mount -o move /proc /root/proc
	exec switch_root /root /sbin/init
fi
echo "initramfs: $root does not mount: a shell instead"
while :; do setsid cttyhack sh; done
