/*
 * A ptrace(2) for User-Mode Linux on a processor with more state than it has room for.
 *
 * Linux 6.1's User-Mode Linux reads and writes the extended state of its processes (PTRACE_GETREGSET, NT_X86_XSTATE) in
 * 2696 bytes. A host whose processor has AMX has eleven kilobytes of it: it reads as much as is asked for, but refuses
 * (EFAULT) to write less than all, and the guest's first process dies. Here the rest is written as it was.
 *
 * Built without the headers and the start files of a C library, which a host with a compiler need not have.
 */

enum { SYS_PTRACE = 101, PEEKTEXT = 1, PEEKUSER = 3, GETREGSET = 0x4204, SETREGSET = 0x4205, XSTATE = 0x202 };

struct part {
  void *base;
  unsigned long length;
};

extern long syscall(long number, ...);
extern int *__errno_location(void);

static unsigned char whole[64 * 1024] __attribute__((aligned(64))); /* its stacks are too small for that */

long ptrace(int request, int pid, void *address, void *data) {
  if (request >= PEEKTEXT && request <= PEEKUSER) { /* the C library returns what the system call stores */
    long word = 0;
    if (syscall(SYS_PTRACE, request, pid, address, &word) < 0) return -1;
    *__errno_location() = 0;
    return word;
  }
  if (request == SETREGSET && address == (void *)XSTATE) {
    const struct part *given = data;
    struct part all = {whole, sizeof whole};
    if (syscall(SYS_PTRACE, GETREGSET, pid, address, &all) == 0 && all.length > given->length) {
      for (unsigned long at = 0; at < given->length; at++) whole[at] = ((const unsigned char *)given->base)[at];
      return syscall(SYS_PTRACE, SETREGSET, pid, address, &all);
    }
  }
  return syscall(SYS_PTRACE, request, pid, address, data);
}
