/*
 * One connection of load.c: opening it, its frames, and what is counted of them. Publishes nothing by itself.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "load_bytes.h"

#define READ_BYTES (1 << 20)
#define CONNECTING_AT_ONCE 64
#define PORTS_OF_AN_ADDRESS 20000 /* then the next 127.0.0.x is the source */
#define NONCE "dGhlIHNhbXBsZSBub25jZQ==" /* of RFC 6455, section 1.3 */
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

enum state { CONNECTING, UPGRADING, WAITING, OPEN, LOST };

struct peer {
    int fd, publisher, wants_out;
    enum state state;
    unsigned number;
    uint64_t seq; /* of the newest delivery */
    struct bytes in, out;
};

static int port, epoll, timer, first_count, hello_count;
static unsigned channels = 1;
static const char *path = "/", *publish_path = "ws:/", *refusal = "\"ok\":false", *ready_text, *publisher_ready_text;
static const char *first[4], *hello[4];
static char *ping, *pong;
static char buffer[READ_BYTES];
static unsigned long long delivered, misplaced, refused, lost, other, opened;
static uint64_t measured_from, now_read;

static void lose(struct peer *p, const char *why)
{
    if (p->state == LOST) return;
    const char *who = p->publisher ? "the publisher" : "subscriber";
    if (!lost++) fprintf(stderr, "load: lost %s %u: %s\n", who, p->number, why);
    close(p->fd);
    p->state = LOST;
}

static void listen_for(struct peer *p, int out)
{
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0u), .data.ptr = p};
    if (p->wants_out != out) epoll_ctl(epoll, EPOLL_CTL_MOD, p->fd, &event);
    p->wants_out = out;
}

static void flush(struct peer *p)
{
    size_t sent = 0;
    while (p->state != LOST && sent < p->out.length) {
        ssize_t n = send(p->fd, p->out.at + sent, p->out.length - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) lose(p, strerror(errno)); else sent += (size_t)n;
    }
    if (p->state == LOST || !p->out.at) return;
    memmove(p->out.at, p->out.at + sent, p->out.length -= sent);
    listen_for(p, p->out.length > 0);
}

static void put_filled(struct peer *p, const char *text)
{
    struct bytes filled = {0};
    fill(&filled, text, p->number % channels, 0, 0);
    append_frame(&p->out, 1, filled.at, filled.length);
    free(filled.at);
}

static void start(struct peer *p, unsigned number, int is_publisher)
{
    int one = 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)}, from = {.sin_family = AF_INET};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + number / PORTS_OF_AN_ADDRESS);
    *p = (struct peer){.number = number, .publisher = is_publisher, .wants_out = 1};
    p->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (p->fd < 0) fail("socket: %s; raise the limit of open files (ulimit -n)", strerror(errno));
    setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(p->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (number >= PORTS_OF_AN_ADDRESS && bind(p->fd, (struct sockaddr *)&from, sizeof from))
        fail("bind: %s", strerror(errno));
    if (connect(p->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = p};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, p->fd, &event)) fail("epoll: %s", strerror(errno));
}

static void open_for_use(struct peer *p)
{
    p->state = OPEN;
    opened += !p->publisher;
}

static void connected(struct peer *p)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) { lose(p, strerror(error)); return; }
    if (p->publisher && *publish_path == 'h') { listen_for(p, 0); open_for_use(p); return; }
    struct bytes request = {0};
    append(&request, "GET ", 4);
    fill(&request, p->publisher ? publish_path + 3 : path, p->number % channels, 0, 0);
    char rest[256];
    int n = sprintf(rest, " HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    "Sec-WebSocket-Key: " NONCE "\r\nSec-WebSocket-Version: 13\r\n\r\n", port);
    append(&request, rest, (size_t)n);
    append(&p->out, request.at, request.length);
    free(request.at);
    p->state = UPGRADING;
    flush(p);
}

static void upgraded(struct peer *p)
{
    for (int i = 0; i < (p->publisher ? hello_count : first_count); i++)
        put_filled(p, p->publisher ? hello[i] : first[i]);
    if ((p->publisher ? publisher_ready_text : ready_text)) p->state = WAITING; else open_for_use(p);
    flush(p);
}

/* Every message in the frame: some servers put several into one. */
static void take(struct peer *p, const char *text, size_t length)
{
    const char *end = text + length, *seq = text, *ts;
    if (ping && length >= strlen(ping) && !memcmp(text, ping, strlen(ping))) {
        other++;
        append_frame(&p->out, 1, pong, strlen(pong));
        flush(p);
        return;
    }
    const char *awaited = p->publisher ? publisher_ready_text : ready_text;
    if (p->state == WAITING && memmem(text, length, awaited, strlen(awaited))) open_for_use(p);
    if (memmem(text, length, refusal, strlen(refusal)) && !refused++)
        fprintf(stderr, "load: refused: %.*s\n", (int)(length > 300 ? 300 : length), text);
    if (p->publisher) { other++; return; }
    int found = 0;
    while ((seq = memmem(seq, (size_t)(end - seq), "\"seq\":", 6))
           && (ts = memmem(seq, (size_t)(end - seq), "\"ts\":", 5))) {
        uint64_t number = 0, time = 0;
        for (seq += 6; *seq >= '0' && *seq <= '9'; seq++) number = number * 10 + (uint64_t)(*seq - '0');
        for (ts += 5; *ts >= '0' && *ts <= '9'; ts++) time = time * 10 + (uint64_t)(*ts - '0');
        misplaced += number != p->seq + 1;
        p->seq = number;
        delivered++;
        found = 1;
        if (measured_from && time >= measured_from) count(now_read > time ? now_read - time : 0);
        seq = ts;
    }
    other += !found;
}

static size_t take_answers(const char *text, size_t length) /* to POST: only the status lines matter */
{
    const char *at = text, *end = text + length;
    for (const char *line; (line = memmem(at, (size_t)(end - at), "HTTP/1.", 7)); at = line + 12) {
        if (end - line < 12) return (size_t)(line - text);
        if (line[9] != '2' && !refused++) fprintf(stderr, "load: refused: %.12s\n", line);
    }
    return length - (end - at < 6 ? (size_t)(end - at) : 6);
}

/* How much of what has come could be used. */
static size_t take_all(struct peer *p, char *text, size_t length)
{
    size_t used = 0;
    if (p->publisher && *publish_path == 'h') return take_answers(text, length);
    if (p->state == UPGRADING) {
        char *end = memmem(text, length, "\r\n\r\n", 4);
        if (!end) return 0;
        used = (size_t)(end - text) + 4;
        if (memcmp(text, "HTTP/1.1 101", 12) || !memmem(text, used, ACCEPT, strlen(ACCEPT))) {
            lose(p, "the upgrade was refused");
            return 0;
        }
        upgraded(p);
    }
    while (p->state != LOST && length - used >= 2) {
        const uint8_t *head = (const uint8_t *)text + used;
        size_t n = head[1] & 127, h = n == 126 ? 4 : n == 127 ? 10 : 2;
        if (length - used < h) break;
        if (h > 2) { n = 0; for (size_t i = 2; i < h; i++) n = n << 8 | head[i]; }
        if (head[1] & 0x80 || head[0] & 0x70 || n > READ_BYTES / 2) { lose(p, "a bad frame"); break; }
        if (length - used < h + n) break;
        switch (head[0] & 15) {
        case 8: lose(p, "the server has closed"); break;
        case 9: append_frame(&p->out, 10, text + used + h, n); flush(p); other++; break;
        case 10: break;
        default: take(p, text + used + h, n);
        }
        used += h + n;
    }
    return used;
}

static void read_from(struct peer *p)
{
    memcpy(buffer, p->in.at ? p->in.at : buffer, p->in.length);
    ssize_t n = recv(p->fd, buffer + p->in.length, READ_BYTES - p->in.length - 1, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { lose(p, n ? strerror(errno) : "the server has closed"); return; }
    now_read = now();
    size_t length = p->in.length + (size_t)n, used;
    buffer[length] = 0;
    used = take_all(p, buffer, length);
    p->in.length = 0;
    if (p->state != LOST && used < length) append(&p->in, buffer + used, length - used);
}

static void poll_until(uint64_t due)
{
    static struct epoll_event events[512];
    struct itimerspec at = {.it_value = {(time_t)(due / SECOND), (long)(due % SECOND)}};
    int n = due <= now() ? 0 : -1;
    if (n) timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    n = epoll_wait(epoll, events, 512, n);
    for (int i = 0; i < n; i++) {
        struct peer *p = events[i].data.ptr;
        uint64_t expired;
        if (!p) { if (read(timer, &expired, sizeof expired) < 0) continue; }
        else if (p->state == CONNECTING) connected(p);
        else if (p->state != LOST) {
            if (events[i].events & EPOLLOUT) flush(p);
            if (p->state != LOST && events[i].events & ~(unsigned)EPOLLOUT) read_from(p);
        }
    }
}
