/* A null HTTP/1.1 collector: answers every POST with 200 and counts what came.
 *
 *   cc -O2 -o sink sink.c && ./sink NEEDLE     prints its port; ends when standard input does
 *
 * POST anything -> 200 {"Status":"OK"}; bodies are only searched for NEEDLE, once an event.
 * GET /stats -> {"posts":n,"events":n,"bytes":n,"cpu_us":n} since the last GET /reset.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 1024, BUFFER = 1 << 20 };
static char *buffers[CONNECTIONS];
static size_t filled[CONNECTIONS];
static unsigned long posts, events, bytes;

static long cpu_us(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000L + use.ru_utime.tv_usec + use.ru_stime.tv_usec;
}

static void answer(int fd, const char *body) {
    char reply[512];
    int n = snprintf(reply, sizeof reply,
                     "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     strlen(body), body);
    if (write(fd, reply, n) != n) close(fd);
}

/* Takes one whole request off the front of the buffer; returns its size, or 0 when more is to come. */
static size_t take(int fd, char *data, size_t size, const char *needle) {
    char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = end - data + 4, length = 0;
    for (char *line = data; line < end; line = (char *)memchr(line, '\n', end - line + 2) + 1)
        if (!strncasecmp(line, "content-length:", 15)) length = strtoul(line + 15, 0, 10);
    if (size < head + length) return 0;
    static long cpu_before;
    if (!strncmp(data, "GET /reset", 10)) {
        posts = events = bytes = 0;
        cpu_before = cpu_us();
        answer(fd, "{}");
    } else if (!strncmp(data, "GET /stats", 10)) {
        char body[256];
        snprintf(body, sizeof body, "{\"posts\":%lu,\"events\":%lu,\"bytes\":%lu,\"cpu_us\":%ld}", posts, events,
                 bytes, cpu_us() - cpu_before);
        answer(fd, body);
    } else {
        posts++;
        bytes += head + length;
        char *from = data + head, *stop = from + length;
        size_t step = strlen(needle);
        while ((from = memmem(from, stop - from, needle, step))) events++, from += step;
        answer(fd, "{\"Status\":\"OK\"}");
    }
    return head + length;
}

int main(int argc, char **argv) {
    const char *needle = argc > 1 ? argv[1] : "event_name";
    int listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 512)) return perror("sink"), 1;
    getsockname(listener, (void *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event ready[64], watch = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &watch);
    watch.data.fd = 0;
    epoll_ctl(poll, EPOLL_CTL_ADD, 0, &watch);
    for (;;) {
        int n = epoll_wait(poll, ready, 64, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == 0) return 0;
            if (fd == listener) {
                fd = accept(listener, 0, 0);
                if (fd < 0) continue;
                if (fd >= CONNECTIONS) { close(fd); continue; }
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                if (!buffers[fd]) buffers[fd] = malloc(BUFFER);
                filled[fd] = 0;
                watch.data.fd = fd;
                epoll_ctl(poll, EPOLL_CTL_ADD, fd, &watch);
                continue;
            }
            ssize_t got = read(fd, buffers[fd] + filled[fd], BUFFER - filled[fd]);
            if (got <= 0) { close(fd); continue; }
            filled[fd] += got;
            for (size_t used; (used = take(fd, buffers[fd], filled[fd], needle));) {
                filled[fd] -= used;
                memmove(buffers[fd], buffers[fd] + used, filled[fd]);
            }
        }
    }
}
