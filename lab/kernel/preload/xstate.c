/*
 * A preloaded ptrace(2) that lets User-Mode Linux run on processors with AMX.
 *
 * UML up to 6.12 saves and restores the extended state of its processes with a fixed 2696 bytes. The host's
 * kernel takes PTRACE_SETREGSET of NT_X86_XSTATE only for the whole area, which AMX makes 11008 bytes long, and
 * answers EFAULT (arch/x86/kernel/fpu/regset.c, xstateregs_set). UML then panics before its first instruction:
 * "ptrace set fp regs failed, errno = 14". UML 6.13 asks for the size.
 *
 * So a write that is too short is made again at full length, with what UML knows nothing about in its initial
 * state. That state, AMX tiles, is therefore not kept for programs inside; nothing in the lab uses it.
 *
 * It needs no C library headers, only a compiler:  cc -shared -fPIC -O2 -nostdlib
 */

#define PTRACE_GETREGSET 0x4204
#define PTRACE_SETREGSET 0x4205
#define NT_X86_XSTATE    0x202
#define EFAULT           14
#define XSTATE_BV        512 /* offset of the bitmap of components present; Intel SDM vol. 1, 13.4.2 */
#define AMX_COMPONENTS   (3ul << 17)

struct iovec {
	void *base;
	unsigned long len;
};

typedef long ptrace_fn(int, int, void *, void *);

extern void *dlsym(void *, const char *);
extern int *__errno_location(void);

/* UML's kernel is one thread. All but the part UML writes stays zero. */
static unsigned char area[1 << 16] __attribute__((aligned(64)));
static unsigned long whole;
static ptrace_fn *next;

static long set_xstate(int pid, struct iovec *given)
{
	struct iovec full = {area, sizeof area};
	unsigned long i, n = given->len / sizeof(long);

	if (!whole) {
		if (next(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &full) < 0)
			return -1;
		whole = full.len;
		for (i = 0; i < sizeof area; i++)
			area[i] = 0;
	}
	if (given->len >= whole) {
		*__errno_location() = EFAULT;
		return -1;
	}
	for (i = 0; i < n; i++)
		((unsigned long *)area)[i] = ((unsigned long *)given->base)[i];
	*(unsigned long *)(area + XSTATE_BV) &= ~AMX_COMPONENTS;
	full.base = area;
	full.len = whole;
	return next(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &full);
}

long ptrace(int request, int pid, void *addr, void *data)
{
	long r;

	if (!next)
		next = (ptrace_fn *)dlsym((void *)-1, "ptrace");
	if (request != PTRACE_SETREGSET || addr != (void *)NT_X86_XSTATE)
		return next(request, pid, addr, data);
	if (!whole) {
		r = next(request, pid, addr, data);
		if (r == 0 || *__errno_location() != EFAULT)
			return r;
	}
	return set_xstate(pid, data);
}
