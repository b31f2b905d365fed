#!/bin/sh
# Prints what a recorded benchmark must state about the host and the build: a number without these
# is an anecdote. Reads only; needs no privileges.
set -u

line() {
    printf '%-22s %s\n' "$1" "${2:-unknown}"
}

setting() {
    line "$1" "$(sysctl -n "$1" 2>/dev/null || echo 'not on this kernel')"
}

PATH=$PATH:/usr/sbin:/sbin
cd "$(dirname "$0")/.." || exit 1

commit=$(git rev-parse --short=12 HEAD 2>/dev/null)
[ -z "$(git status --porcelain 2>/dev/null)" ] || commit="$commit, with changes"
line commit "$commit"
line date "$(date -u +%Y-%m-%dT%H:%MZ)"
line rustc "$(rustc --version 2>/dev/null)"
line cc "$(cc --version 2>/dev/null | head -n 1)"
for peer in haproxy nginx; do
    command -v "$peer" >/dev/null || continue
    line "$peer" "$("$peer" -v 2>&1 | head -n 1)"
done

line kernel "$(uname -srm)"
line system "$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release)"
line cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
line cores "$(getconf _NPROCESSORS_ONLN) online, usable: $(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)"
line governor "$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null ||
    echo 'none (no cpufreq)')"
line hypervisor "$(if grep -q '^flags.* hypervisor' /proc/cpuinfo; then echo yes; else echo no; fi)"
line mitigations "$(grep -l -i mitigation /sys/devices/system/cpu/vulnerabilities/* 2>/dev/null |
    sed 's|.*/||' | tr '\n' ' ')"
line memory "$(sed -n 's/^MemTotal:[[:space:]]*//p' /proc/meminfo)"
line load "$(cut -d ' ' -f 1-3 /proc/loadavg)"

line user "$(id -un) ($(id -u))"
limit() {
    # shellcheck disable=SC2046 # Soft, hard and unit are meant to fall apart.
    set -- $(sed -n "s/^$1 *//p" /proc/self/limits)
    echo "soft $1, hard $2"
}
line 'open files' "$(limit 'Max open files')"
line 'locked memory' "$(limit 'Max locked memory')"

for name in kernel.io_uring_disabled net.ipv4.tcp_congestion_control net.core.somaxconn \
    net.ipv4.tcp_migrate_req net.ipv4.ip_local_port_range fs.pipe-user-pages-soft \
    fs.pipe-max-size; do
    setting "$name"
done
if [ "$(sed -n 's/^Seccomp:[[:space:]]*//p' /proc/self/status)" != 0 ]; then
    line seccomp 'a filter is in force: it may refuse io_uring'
fi
if grep -q ' io_uring_setup$' /proc/kallsyms 2>/dev/null ||
    grep -q ' __x64_sys_io_uring_setup$' /proc/kallsyms 2>/dev/null; then
    line io_uring 'built in'
else
    line io_uring "not to be seen from here; the relay probes it at start"
fi
