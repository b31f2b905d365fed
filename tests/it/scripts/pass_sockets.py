"""Starts a program with sockets, as systemd does: takes those that come over a unix socket,
numbers them from 3 on, and becomes the program.

usage: pass_sockets.py PATH NAMES PROGRAM [ARGUMENT...]
"""

import fcntl
import os
import socket
import sys

path, names, program = sys.argv[1], sys.argv[2], sys.argv[3:]
with socket.socket(socket.AF_UNIX) as peer:
    peer.connect(path)
    _, received, _, _ = socket.recv_fds(peer, 1, 64)

# Out of the way of the numbers that they get.
moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in received]
for fd in received:
    os.close(fd)
for number, fd in enumerate(moved, start=3):
    os.dup2(fd, number, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(moved))
os.environ["LISTEN_FDNAMES"] = names
os.execvp(program[0], program)
