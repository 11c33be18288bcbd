/* ptrace(2) for User-Mode Linux on processors with AMX; see registers.py. Built without the C library's headers. */

enum { PEEK_FIRST = 1, PEEK_LAST = 3, GETREGSET = 0x4204, SETREGSET = 0x4205, XSTATE = 0x202, SYS_PTRACE = 101 };

struct iovec {
    void *base;
    unsigned long length;
};

extern int *__errno_location(void);

static long raw(long request, long pid, void *address, void *data)
{
    register void *fourth __asm__("r10") = data;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"((long)SYS_PTRACE), "D"(request), "S"(pid), "d"(address), "r"(fourth)
                     : "rcx", "r11", "memory");
    if (result < 0) {
        *__errno_location() = (int)-result;
        return -1;
    }
    return result;
}

/* The kernel takes a register set as a whole: what the caller does not know of is set to what it is. */
static long set_whole(long pid, void *address, struct iovec *part)
{
    static char registers[65536] __attribute__((aligned(64)));
    struct iovec whole = {registers, sizeof registers};
    if (raw(GETREGSET, pid, address, &whole) < 0 || whole.length <= part->length)
        return raw(SETREGSET, pid, address, part);
    for (unsigned long at = 0; at < part->length; at++)
        registers[at] = ((volatile char *)part->base)[at];
    return raw(SETREGSET, pid, address, &whole);
}

long ptrace(long request, long pid, void *address, void *data)
{
    long word;
    if (request == SETREGSET && (long)address == XSTATE)
        return set_whole(pid, address, data);
    if (request < PEEK_FIRST || request > PEEK_LAST)
        return raw(request, pid, address, data);
    if (raw(request, pid, address, &word) < 0) /* as in the C library, what was read is the result */
        return -1;
    *__errno_location() = 0;
    return word;
}
