"""Stops these threads of another process, and no others, until its standard input ends.

usage: stop_threads.py TID...
"""

import ctypes
import os
import sys

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


def ptrace(request, tid):
    if libc.ptrace(ctypes.c_long(request), ctypes.c_long(tid), None, None) != 0:
        sys.exit(f"ptrace: {os.strerror(ctypes.get_errno())}")


for tid in map(int, sys.argv[1:]):
    ptrace(PTRACE_SEIZE, tid)
    ptrace(PTRACE_INTERRUPT, tid)
    os.waitpid(tid, WALL)
print("stopped", flush=True)
# Whoever traces and ends lets them go on.
sys.stdin.read()
