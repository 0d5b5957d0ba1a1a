/* Posts ready-made requests to a collector over several connections, and says how it went.
 *
 *   cc -O2 -o load load.c && ./load PORT FILE CONNECTIONS DEPTH
 *
 * FILE holds requests one after another, each behind its length as a decimal line.  Every request is sent once; each
 * connection has at most DEPTH of them unanswered.  Prints {"ok":n,"other":n,"wall":seconds,"cpu":seconds}.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { REPLIES = 1 << 16 };
struct connection {
    int fd;
    unsigned unanswered;
    const char *from, *to; /* what is still to be written of its latest request */
    size_t filled;
    char replies[REPLIES];
};
static const char *next, *end; /* the requests that no connection has yet */
static unsigned long ok, other;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void send_some(struct connection *it, unsigned depth) {
    for (;;) {
        if (it->from == it->to) {
            if (next == end || it->unanswered == depth) return;
            char *body;
            size_t size = strtoul(next, &body, 10);
            it->from = body + 1;
            it->to = next = it->from + size;
            it->unanswered++;
        }
        ssize_t n = send(it->fd, it->from, it->to - it->from, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) fail("send");
        it->from += n;
    }
}

static void read_some(struct connection *it) {
    ssize_t n = recv(it->fd, it->replies + it->filled, REPLIES - it->filled, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) fail("recv");
    if (n == 0) errno = ECONNRESET, fail("recv");
    it->filled += n;
    char *reply = it->replies, *stop = reply + it->filled, *body;
    while ((body = memmem(reply, stop - reply, "\r\n\r\n", 4))) {
        size_t length = 0;
        for (char *line = reply; line < body; line = (char *)memchr(line, '\n', body - line + 2) + 1)
            if (!strncasecmp(line, "content-length:", 15)) length = strtoul(line + 15, 0, 10);
        if (body + 4 + length > stop) break;
        if (!strncmp(reply, "HTTP/1.1 200 ", 13)) ok++;
        else other++;
        it->unanswered--;
        reply = body + 4 + length;
    }
    it->filled = stop - reply;
    memmove(it->replies, reply, it->filled);
}

int main(int argc, char **argv) {
    if (argc != 5) return fprintf(stderr, "usage: load PORT FILE CONNECTIONS DEPTH\n"), 2;
    int file = open(argv[2], O_RDONLY), count = atoi(argv[3]), poll = epoll_create1(0), one = 1;
    unsigned depth = atoi(argv[4]);
    struct stat about;
    if (file < 0 || fstat(file, &about)) fail(argv[2]);
    next = mmap(0, about.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    if (next == MAP_FAILED) fail("mmap");
    end = next + about.st_size;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct connection *all = calloc(count, sizeof *all);
    for (int i = 0; i < count; i++) {
        all[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(all[i].fd, (void *)&address, sizeof address)) fail("connect");
        setsockopt(all[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(all[i].fd, F_SETFL, O_NONBLOCK);
        struct epoll_event watch = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &all[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &watch);
    }
    /* So that an answer does not have us take a CPU from the collector at once, which holds a lock meanwhile. */
    struct sched_param none = {0};
    sched_setscheduler(0, SCHED_BATCH, &none);
    double began = now();
    unsigned long unanswered = 0;
    for (int i = 0; i < count; i++) send_some(&all[i], depth), unanswered += all[i].unanswered;
    while (unanswered) {
        struct epoll_event ready[64];
        int n = epoll_wait(poll, ready, 64, -1);
        for (int i = 0; i < n; i++) {
            struct connection *it = ready[i].data.ptr;
            unanswered -= it->unanswered;
            read_some(it);
            send_some(it, depth);
            unanswered += it->unanswered;
        }
    }
    struct rusage use;
    double wall = now() - began;
    getrusage(RUSAGE_SELF, &use);
    printf("{\"ok\":%lu,\"other\":%lu,\"wall\":%.6f,\"cpu\":%.6f}\n", ok, other, wall,
           use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6);
    return 0;
}
