#!/bin/sh
# Ties a network card's receive interrupts to the cores that the relay's shards run on, one queue
# after another, and lets each of these cores send through its own queue (XPS).
#
# Why: a connection's packets are then processed on a core of the relay, in the best case on the
# shard that serves it, and the remaining cores keep free of its softirqs.
# Gained: from documentation (Linux, Documentation/networking/scaling.rst), not measured here:
# loopback has no interrupts.
# Undo: irq_affinity.sh --undo INTERFACE, or reboot. What was set before is kept in /run.
#
# irqbalance moves interrupts back; stop it, or ban these interrupts from it.
set -eu

usage() {
    echo "usage: $0 INTERFACE CORES      (CORES as in --cores: 0-3 or 0,2,5)" >&2
    echo "       $0 --undo INTERFACE" >&2
    exit 2
}

# Writes $1 to file $2, keeping what was there before.
set_file() {
    [ -w "$2" ] || return 0
    printf '%s %s\n' "$2" "$(cat "$2")" >>"$saved"
    printf '%s\n' "$1" >"$2" || echo "$2 does not take $1" >&2
}

cores_of() {
    echo "$1" | tr ',' '\n' | while IFS=- read -r first last; do
        seq "$first" "${last:-$first}"
    done
}

# A hexadecimal mask with commas every 32 bits, as sysfs wants it.
mask_of() {
    mask=$(printf '%x' $((1 << ($1 % 32))))
    words=$(($1 / 32))
    while [ "$words" -gt 0 ]; do
        mask="$mask,00000000"
        words=$((words - 1))
    done
    echo "$mask"
}

[ $# -eq 2 ] || usage
if [ "$1" = --undo ]; then
    saved=/run/midspan-irq-affinity.$2
    [ -e "$saved" ] || { echo "nothing to undo for $2" >&2; exit 1; }
    while read -r file value; do
        printf '%s\n' "$value" >"$file" || echo "$file does not take $value" >&2
    done <"$saved"
    rm "$saved"
    exit 0
fi

interface=$1
saved=/run/midspan-irq-affinity.$interface
[ -d "/sys/class/net/$interface" ] || { echo "no interface $interface" >&2; exit 1; }
interrupts=/sys/class/net/$interface/device/msi_irqs
# A virtio card's interrupts belong to the PCI device that carries it.
[ -d "$interrupts" ] || interrupts=/sys/class/net/$interface/device/../msi_irqs
[ -d "$interrupts" ] || {
    echo "$interface has no message-signalled interrupts to tie" >&2
    exit 1
}
[ ! -e "$saved" ] || { echo "$interface is tied already; --undo first" >&2; exit 1; }
cores=$(cores_of "$2")
[ -n "$cores" ] || usage

# shellcheck disable=SC2086 # The list of cores is meant to fall apart.
set -- $cores
for irq in $(find "$interrupts/" -type f -exec basename {} \; | sort -n); do
    # A card has more interrupts than queues. Those of queues carry the interface's name or, by
    # driver, the words input and output (virtio) or comp (mlx5).
    grep -qE "^ *$irq:.*($interface|input|output|comp)" /proc/interrupts || continue
    core=$1
    set_file "$core" "/proc/irq/$irq/smp_affinity_list"
    echo "interrupt $irq: core $core"
    shift
    set -- "$@" "$core"
done

# shellcheck disable=SC2086
set -- $cores
for queue in /sys/class/net/"$interface"/queues/tx-*; do
    core=$1
    set_file "$(mask_of "$core")" "$queue/xps_cpus"
    echo "${queue##*/}: core $core"
    shift
    set -- "$@" "$core"
done
