// Package kernel runs a command as root on a Linux kernel that has what a shoal host needs.
//
// In goes a [Job]: a command, its folder, its environment, and the data plane that it is about, which decides what the
// kernel must have: IPVS and ipset, or nf_tables. Out come its output, as it appears, and its exit status.
// Where this machine's kernel will do, the job runs on it, in mount, network and process namespaces of its own, on all
// processors. Where it will not do for IPVS, [Run] boots User-Mode Linux: a Linux kernel that is an ordinary process, from Debian's
// package user-mode-linux, over this machine's own files. Either way process 1 of the job is this same program,
// started again, which finds out by [IsInit] and does the work of [Init]: private folders, kernel modules,
// control groups, a loopback interface, then the command, and reaping until it ends.
//
// Private to the job, and gone with it: /run, /tmp, /var/tmp and the data folders of Docker and containerd. What of
// them the job needs (its folder, the program it runs) stays visible in place. All other files are the machine's
// own, and writable. The package touches no network interface, rule or sysctl outside the job's namespaces. Outside them
// are only the job's folder, the memory of User-Mode Linux, and the control groups that engines make below one of the job's
// name. A process beside the job removes these once it has ended, even if all of it was killed.
//
// Single tests need more of a kernel, SCTP for one. They ask [Has]; what they leave out is noted by [NoteLacking],
// and listed when the job ends.
//
// # User-Mode Linux
//
// It has IPVS, but no nf_tables for IPv4. It has one processor whatever the machine has, and a fork with exec costs some 10 to 25 ms. It needs a folder on
// tmpfs as large as its memory (/dev/shm, where that is large enough). Its consoles are: 0 the kernel's messages,
// which Run keeps for the case that the kernel dies, 1 standard output, 2 standard error, or for an interactive job 1
// the terminal. It cannot start on processors with AMX without the small library built from xstate.c, which
// is looked for beside the program as uml-xstate.so.
package kernel
