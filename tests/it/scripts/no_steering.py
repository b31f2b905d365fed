"""Becomes a program that may not tell the kernel how to choose among the sockets of one port
(SO_ATTACH_REUSEPORT_CBPF), as in sandboxes that forbid it.

usage: no_steering.py PROGRAM [ARGUMENT...]
"""

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
ALLOW, FAIL = 0x7FFF0000, 0x00050000
LOAD, JUMP_UNLESS, RETURN = 0x20, 0x15, 0x06
# Where struct seccomp_data has the call, its level and its option.
CALL_AT, LEVEL_AT, OPTION_AT = 0, 24, 32
SETSOCKOPT = {"x86_64": 54, "aarch64": 208}[platform.machine()]
SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF = 1, 51

steps = [
    (LOAD, 0, 0, CALL_AT),
    (JUMP_UNLESS, 0, 5, SETSOCKOPT),
    (LOAD, 0, 0, LEVEL_AT),
    (JUMP_UNLESS, 0, 3, SOL_SOCKET),
    (LOAD, 0, 0, OPTION_AT),
    (JUMP_UNLESS, 0, 1, SO_ATTACH_REUSEPORT_CBPF),
    (RETURN, 0, 0, FAIL | errno.EPERM),
    (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
for arguments in [
    (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
    (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
]:
    if libc.prctl(*arguments) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
os.execvp(sys.argv[1], sys.argv[1:])
