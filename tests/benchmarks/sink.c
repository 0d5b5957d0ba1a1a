/* A null HTTP/1.1 collector: answers every POST with 200 and counts what came.
 *
 *   cc -O2 -o sink sink.c && ./sink NEEDLE REPLY DELAY_US [numbered]
 *
 * prints its port, and ends when standard input does.  Every POST is answered 200 with REPLY, DELAY_US later.
 * Bodies are not kept: they are only searched for NEEDLE, once an event.  With "numbered", only a NEEDLE that a
 * number follows is an event, and a number that came before is a repetition.
 *
 * GET /stats -> {"posts":n,"events":n,"repeated":n,"bytes":n,"cpu_us":n} since the last GET /reset.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 4096, BUFFER = 256 << 10, NUMBERS = 4 << 20, DIGITS = 10 };

struct connection {
    char *data;
    size_t filled, body; /* bytes in data; bytes of the body that were not yet searched */
    int in_body;
    unsigned opened; /* which of this descriptor's connections: a late reply must not reach the next */
};
struct late {
    int fd;
    unsigned opened;
    uint64_t due;
};

static struct connection connections[CONNECTIONS];
static struct late queue[CONNECTIONS]; /* replies that wait; the delay is the same for all, so the first is due first */
static unsigned first, last;
static unsigned char seen[NUMBERS / 8];
static const char *needle;
static size_t step;
static int numbered, timer;
static uint64_t delay_ns;
static unsigned long posts, events, repeated, bytes;
static long cpu_before;

static char ok[1024]; /* the whole answer to a POST */
static size_t ok_size;

static long cpu_us(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000L + use.ru_utime.tv_usec + use.ru_stime.tv_usec;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void say(int fd, const char *text, size_t size) {
    if (send(fd, text, size, MSG_NOSIGNAL) != (ssize_t)size) shutdown(fd, SHUT_RDWR);
}

static void arm(void) {
    struct itimerspec at = {0};
    if (first != last) {
        uint64_t due = queue[first % CONNECTIONS].due;
        at.it_value = (struct timespec){.tv_sec = due / 1000000000u, .tv_nsec = due % 1000000000u};
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, 0);
}

static void answer_post(int fd) {
    posts++;
    if (!delay_ns) {
        say(fd, ok, ok_size);
        return;
    }
    queue[last % CONNECTIONS] = (struct late){.fd = fd, .opened = connections[fd].opened, .due = now_ns() + delay_ns};
    if (first == last++) arm();
}

static void answer_late(void) {
    uint64_t expirations, now = now_ns();
    if (read(timer, &expirations, sizeof expirations) < 0) return;
    for (; first != last && queue[first % CONNECTIONS].due <= now; first++) {
        struct late *it = &queue[first % CONNECTIONS];
        if (connections[it->fd].opened == it->opened) say(it->fd, ok, ok_size);
    }
    arm();
}

static void answer_get(int fd, const char *head) {
    char body[256], reply[512];
    if (!strncmp(head, "GET /reset", 10)) {
        posts = events = repeated = bytes = 0;
        memset(seen, 0, sizeof seen);
        cpu_before = cpu_us();
    }
    int n = snprintf(body, sizeof body, "{\"posts\":%lu,\"events\":%lu,\"repeated\":%lu,\"bytes\":%lu,\"cpu_us\":%ld}", posts,
                     events, repeated, bytes, cpu_us() - cpu_before);
    n = snprintf(reply, sizeof reply,
                 "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", n, body);
    say(fd, reply, n);
}

/* Counts the events that begin in the first `begin` of `size` bytes. */
static void count(const char *data, size_t begin, size_t size) {
    const char *at = data, *stop = data + begin, *end = data + size;
    while (at < stop && (at = memchr(at, *needle, stop - at))) {
        if (end - at < (ptrdiff_t)step || memcmp(at, needle, step)) {
            at++;
            continue;
        }
        at += step;
        if (!numbered) {
            events++;
            continue;
        }
        unsigned long number = 0;
        const char *digit = at;
        while (digit < end && *digit >= '0' && *digit <= '9') number = number * 10 + (*digit++ - '0');
        if (digit == at || number >= NUMBERS) continue;
        events++;
        if (seen[number / 8] >> number % 8 & 1) repeated++;
        seen[number / 8] |= 1 << number % 8;
    }
}

/* Takes what it can off the front of the buffer; returns how much that was. */
static size_t take(int fd, struct connection *it, char *data, size_t size) {
    if (it->in_body) {
        if (size >= it->body) {
            size = it->body;
            count(data, size, size);
            it->in_body = 0;
            answer_post(fd);
            return size;
        }
        size_t tail = step + DIGITS; /* what is cut in two is looked at again, with the rest */
        if (size <= tail) return 0;
        count(data, size - tail, size);
        it->body -= size - tail;
        return size - tail;
    }
    char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = end - data + 4, length = 0;
    for (char *line = data; line < end; line = (char *)memchr(line, '\n', end - line + 2) + 1)
        if (!strncasecmp(line, "content-length:", 15)) length = strtoul(line + 15, 0, 10);
    if (!strncmp(data, "GET ", 4)) {
        answer_get(fd, data);
    } else {
        bytes += head + length;
        it->body = length;
        it->in_body = length > 0;
        if (!length) answer_post(fd);
    }
    return head;
}

static void receive(int fd) {
    struct connection *it = &connections[fd];
    ssize_t got = read(fd, it->data + it->filled, BUFFER - it->filled);
    if (got <= 0) {
        it->opened++;
        close(fd);
        return;
    }
    it->filled += got;
    size_t done = 0;
    for (size_t used; (used = take(fd, it, it->data + done, it->filled - done));) done += used;
    it->filled -= done;
    memmove(it->data, it->data + done, it->filled);
}

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "usage: sink NEEDLE REPLY DELAY_US [numbered]\n"), 2;
    needle = argv[1];
    step = strlen(needle);
    ok_size = snprintf(ok, sizeof ok,
                       "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                       strlen(argv[2]), argv[2]);
    if (ok_size >= sizeof ok) return fprintf(stderr, "REPLY is too long\n"), 2;
    delay_ns = strtoull(argv[3], 0, 10) * 1000;
    numbered = argc > 4;
    int listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0), one = 1;
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 512)) return perror("sink"), 1;
    getsockname(listener, (void *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event ready[64], watch = {.events = EPOLLIN};
    int sources[] = {0, listener, timer};
    for (int i = 0; i < 3; i++) {
        watch.data.fd = sources[i];
        epoll_ctl(poll, EPOLL_CTL_ADD, sources[i], &watch);
    }
    for (;;) {
        int n = epoll_wait(poll, ready, 64, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == 0) return 0;
            if (fd == timer) {
                answer_late();
            } else if (fd == listener) {
                fd = accept(listener, 0, 0);
                if (fd < 0) continue;
                if (fd >= CONNECTIONS) {
                    close(fd);
                    continue;
                }
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                struct connection *it = &connections[fd];
                if (!it->data) it->data = malloc(BUFFER);
                it->filled = it->body = it->in_body = 0;
                watch.data.fd = fd;
                epoll_ctl(poll, EPOLL_CTL_ADD, fd, &watch);
            } else {
                receive(fd);
            }
        }
    }
}
