/* A file system whose locks or mappings do not work, as NFS, 9p and FUSE may be: what the kernel would answer
   there, answered by the C library. BROKEN says what: "flock=ENOSYS,fcntl=OK,mmap=ENODEV"; OK: it says that it
   worked, and does nothing. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* What a call is to end with: 0 for OK, an error number, or -1 where it works. */
static int broken(const char *call)
{
    const char *spec = getenv("BROKEN"), *found = spec ? strstr(spec, call) : NULL;
    if (!found)
        return -1;
    found += strlen(call) + 1;
    if (!strncmp(found, "OK", 2))
        return 0;
    if (!strncmp(found, "ENOSYS", 6))
        return ENOSYS;
    if (!strncmp(found, "ENOLCK", 6))
        return ENOLCK;
    return !strncmp(found, "ENODEV", 6) ? ENODEV : EOPNOTSUPP;
}

static int ended(int error)
{
    errno = error;
    return error ? -1 : 0;
}

int flock(int fd, int operation)
{
    int error = broken("flock");
    int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
    return error < 0 ? real(fd, operation) : ended(error);
}

static int control(const char *name, int fd, int command, void *argument)
{
    int is_lock = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK;
    int error = is_lock ? broken("fcntl") : -1;
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, name);
    return error < 0 ? real(fd, command, argument) : ended(error);
}

#define CONTROL(name)                                                                                              \
    int name(int fd, int command, ...)                                                                             \
    {                                                                                                              \
        va_list arguments;                                                                                         \
        va_start(arguments, command);                                                                              \
        void *argument = va_arg(arguments, void *);                                                                \
        va_end(arguments);                                                                                         \
        return control(#name, fd, command, argument);                                                              \
    }

CONTROL(fcntl)
CONTROL(fcntl64)

static void *map(const char *name, void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    int error = fd >= 0 && (flags & MAP_SHARED) && (protection & PROT_WRITE) ? broken("mmap") : -1;
    void *(*real)(void *, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, name);
    if (error < 0)
        return real(at, length, protection, flags, fd, offset);
    errno = error;
    return MAP_FAILED;
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map("mmap", at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map("mmap64", at, length, protection, flags, fd, offset);
}
