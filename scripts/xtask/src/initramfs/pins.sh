#!/bin/busybox sh
# pins OWN FOREIGN ROUNDS: on a Raspberry Pi 4 drives pin OWN and reads it back, tries to have pin FOREIGN, and then,
# past the kernel's driver (iomem=relaxed), tries at every bit of the block's registers. Ends in what it read of them.
own=$1 foreign=$2 rounds=$3
for chip in /sys/class/gpio/gpiochip*; do
    [ "$(cat "$chip/label")" = pinctrl-bcm2711 ] && base=$(cat "$chip/base")
done
cd /sys/class/gpio || exit 1
if (echo $((base + foreign)) > export) 2> /dev/null; then
    echo "BAD pin $foreign was had"
fi
echo $((base + own)) > export
cd gpio$((base + own)) || exit 1
echo out > direction
n=0
while [ $n -lt "$rounds" ]; do
    n=$((n + 1))
    echo 1 > value
    read -r high < value
    echo 0 > value
    read -r low < value
    [ "$high$low" = 10 ] || echo "BAD pin $own reads $high, then $low in round $n"
done
# Functions of pins 10 to 19 (alternate 4), set, clear, events, event enables, pulls of pins 16 to 31.
devmem 0xfe200004 32 0x1b6db6db
for register in 1c 28 40 4c 58 64 70 7c 88 e8; do
    devmem 0xfe2000$register 32 0xffffffff
done
echo "select $(devmem 0xfe200004) enables $(devmem 0xfe20004c) pull $(devmem 0xfe2000e8) level $(devmem 0xfe200034)"
for register in 4c 58 64 70 7c 88 e8; do
    devmem 0xfe2000$register 32 0
done
echo out > direction
echo 1 > value
read -r high < value
cd /sys/class/gpio || exit 1
echo $((base + own)) > unexport
echo "rounds=$n last=$high"
