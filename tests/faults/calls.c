/* Preloaded by test programs: counts the calls that change files or send, and at one of them kills the process,
   lets it fail, or writes down what was done.  See calls.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, RENAME = 4, UNLINK = 8, TRUNCATE = 16, SEND = 32, CREATE = 64 };

static atomic_long calls;
static atomic_int counting;
static long kill_at;       /* 0 for never */
static int kill_halfway;   /* whether half of what is written goes out first */
static atomic_int fail_kinds, fail_with, failed;
static char fail_where[256]; /* what the path must hold */
static int log_fd = -1;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

void calls_kill(long at, int halfway) { kill_at = at; kill_halfway = halfway; calls = 0; counting = 1; }
void calls_fail(int kinds, int with, const char *where) {
    snprintf(fail_where, sizeof fail_where, "%s", where);
    fail_with = with;
    fail_kinds = kinds;
}
void calls_log(int fd) { log_fd = fd; }
long calls_count(void) { return calls; }
int calls_failed(void) { return failed; }

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether the process is to be killed at this call; that it has come is counted. */
static int due(void) { return counting && ++calls == kill_at; }

static void path_of(int fd, char *path, size_t size) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, path, size - 1);
    path[n > 0 ? n : 0] = 0;
}

static int fails(int kind, const char *path) {
    if (!(fail_kinds & kind) || !strstr(path, fail_where)) return 0;
    failed++;
    errno = fail_with;
    return 1;
}

static int fails_at(int kind, int fd) {
    if (!(fail_kinds & kind)) return 0;
    char path[4096];
    path_of(fd, path, sizeof path);
    return fails(kind, path);
}

static int is_file(int fd) {
    struct stat s;
    return !fstat(fd, &s) && (S_ISREG(s.st_mode) || S_ISDIR(s.st_mode));
}

static int is_network(int fd) {
    struct sockaddr address;
    socklen_t size = sizeof address;
    return !getsockname(fd, &address, &size) && address.sa_family == AF_INET;
}

/* One entry: kind, lengths of path and data, offset, then both. */
static void entry(int kind, const char *path, int64_t offset, const void *data, int64_t size) {
    struct { int64_t kind, path, size, offset; } head = {kind, strlen(path), data ? size : 0, offset};
    syscall(SYS_write, log_fd, &head, sizeof head);
    syscall(SYS_write, log_fd, path, head.path);
    if (head.size) syscall(SYS_write, log_fd, data, head.size);
}

#define NEXT(type, name, ...)                                    \
    static type (*next)(__VA_ARGS__);                            \
    if (!next) next = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *data, size_t size) {
    NEXT(ssize_t, "write", int, const void *, size_t);
    if (!(counting || fail_kinds || log_fd >= 0) || !is_file(fd)) return next(fd, data, size);
    if (due()) {
        if (kill_halfway) next(fd, data, size / 2);
        die();
    }
    if (fails_at(WRITE, fd)) return -1;
    if (log_fd < 0) return next(fd, data, size);
    pthread_mutex_lock(&log_lock);
    struct stat s;
    char path[4096];
    fstat(fd, &s);
    int64_t offset = fcntl(fd, F_GETFL) & O_APPEND ? s.st_size : lseek(fd, 0, SEEK_CUR);
    ssize_t n = next(fd, data, size);
    path_of(fd, path, sizeof path);
    if (n > 0) entry(WRITE, path, offset, data, n);
    pthread_mutex_unlock(&log_lock);
    return n;
}

#define PWRITE(name)                                                                              \
    ssize_t name(int fd, const void *data, size_t size, off_t offset) {                           \
        NEXT(ssize_t, #name, int, const void *, size_t, off_t);                                   \
        if (due()) {                                                                              \
            if (kill_halfway) next(fd, data, size / 2, offset);                                   \
            die();                                                                                \
        }                                                                                         \
        if (fails_at(WRITE, fd)) return -1;                                                       \
        if (log_fd < 0) return next(fd, data, size, offset);                                      \
        pthread_mutex_lock(&log_lock);                                                            \
        char path[4096];                                                                          \
        ssize_t n = next(fd, data, size, offset);                                                 \
        path_of(fd, path, sizeof path);                                                           \
        if (n > 0) entry(WRITE, path, offset, data, n);                                           \
        pthread_mutex_unlock(&log_lock);                                                          \
        return n;                                                                                 \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define FTRUNCATE(name)                                                                           \
    int name(int fd, off_t size) {                                                                \
        NEXT(int, #name, int, off_t);                                                             \
        if (due()) {                                                                              \
            if (kill_halfway) next(fd, size);                                                     \
            die();                                                                                \
        }                                                                                         \
        if (fails_at(TRUNCATE, fd)) return -1;                                                    \
        if (log_fd < 0) return next(fd, size);                                                    \
        pthread_mutex_lock(&log_lock);                                                            \
        char path[4096];                                                                          \
        int n = next(fd, size);                                                                   \
        path_of(fd, path, sizeof path);                                                           \
        if (!n) entry(TRUNCATE, path, size, NULL, 0);                                             \
        pthread_mutex_unlock(&log_lock);                                                          \
        return n;                                                                                 \
    }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define FSYNC(name)                                                                               \
    int name(int fd) {                                                                            \
        NEXT(int, #name, int);                                                                    \
        if (due()) {                                                                              \
            if (kill_halfway) next(fd);                                                           \
            die();                                                                                \
        }                                                                                         \
        if (fails_at(SYNC, fd)) return -1;                                                        \
        if (log_fd < 0) return next(fd);                                                          \
        pthread_mutex_lock(&log_lock);                                                            \
        char path[4096];                                                                          \
        int n = next(fd);                                                                         \
        path_of(fd, path, sizeof path);                                                           \
        if (!n) entry(SYNC, path, 0, NULL, 0);                                                    \
        pthread_mutex_unlock(&log_lock);                                                          \
        return n;                                                                                 \
    }
FSYNC(fsync)
FSYNC(fdatasync)

int unlink(const char *path) {
    NEXT(int, "unlink", const char *);
    if (due()) {
        if (kill_halfway) next(path);
        die();
    }
    if (fails(UNLINK, path)) return -1;
    if (log_fd < 0) return next(path);
    pthread_mutex_lock(&log_lock);
    int n = next(path);
    if (!n) entry(UNLINK, path, 0, NULL, 0);
    pthread_mutex_unlock(&log_lock);
    return n;
}

int rename(const char *path, const char *to) {
    NEXT(int, "rename", const char *, const char *);
    if (due()) {
        if (kill_halfway) next(path, to);
        die();
    }
    if (fails(RENAME, path)) return -1;
    if (log_fd < 0) return next(path, to);
    pthread_mutex_lock(&log_lock);
    int n = next(path, to);
    if (!n) entry(RENAME, path, 0, to, strlen(to));
    pthread_mutex_unlock(&log_lock);
    return n;
}

#define OPEN(name)                                                                                \
    int name(const char *path, int flags, ...) {                                                  \
        NEXT(int, #name, const char *, int, mode_t);                                              \
        va_list rest;                                                                             \
        va_start(rest, flags);                                                                    \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                   \
        va_end(rest);                                                                             \
        if (!(flags & O_CREAT)) return next(path, flags, mode);                                   \
        if (fails(CREATE, path)) return -1;                                                       \
        if (log_fd < 0) return next(path, flags, mode);                                           \
        pthread_mutex_lock(&log_lock);                                                            \
        int there = !access(path, F_OK);                                                          \
        int fd = next(path, flags, mode);                                                         \
        if (fd >= 0 && !there) entry(CREATE, path, 0, NULL, 0);                                   \
        pthread_mutex_unlock(&log_lock);                                                          \
        return fd;                                                                                \
    }
OPEN(open)
OPEN(open64)

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    NEXT(ssize_t, "sendto", int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    if (counting && is_network(fd) && due()) {
        if (kill_halfway) next(fd, data, size / 2, flags, to, length);
        die();
    }
    return next(fd, data, size, flags, to, length);
}

ssize_t send(int fd, const void *data, size_t size, int flags) { return sendto(fd, data, size, flags, NULL, 0); }

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    NEXT(ssize_t, "sendmsg", int, const struct msghdr *, int);
    if (counting && is_network(fd) && due()) {
        if (kill_halfway) next(fd, message, flags);
        die();
    }
    return next(fd, message, flags);
}
