/*
 * limit - how fast delivery over WebSocket can be on this machine: what `python3 scripts/bench delivery` compares with.
 *
 * One thread, one epoll, and for each message one send() of a ready frame per subscriber; with -j the messages of one
 * read are joined, with one send() per subscriber for all of them. It does nothing else: no JSON, no state, no
 * keep-alive, and a subscriber that does not take all at once is cut.
 *
 * GET /s/CHANNEL subscribes (a number below 1,000,000). GET /p is a publisher, whose frames are `CHANNEL text`. The
 * answer to the upgrade is that to the nonce of RFC 6455, section 1.3, which load.c always sends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHANNELS 1000000
#define READ_BYTES (1 << 20)

enum kind { NEW, SUBSCRIBER, PUBLISHER };

struct bytes { char *at; size_t length, room; };
struct channel { int *subscribers, count, room, dirty; struct bytes joined; };
struct client { enum kind kind; int channel, place; struct bytes in; };

static const char ACCEPTED[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static struct channel *channels;
static struct client *clients; /* by descriptor */
static int *dirty, dirty_count, joins;
static char buffer[READ_BYTES];

static void append(struct bytes *to, const void *from, size_t length)
{
    if (to->length + length > to->room && !(to->at = realloc(to->at, to->room = (to->length + length) * 2))) exit(1);
    memcpy(to->at + to->length, from, length);
    to->length += length;
}

static void drop(int fd)
{
    struct client *gone = &clients[fd];
    if (gone->kind == SUBSCRIBER) {
        struct channel *channel = &channels[gone->channel];
        int moved = channel->subscribers[--channel->count];
        channel->subscribers[gone->place] = moved;
        clients[moved].place = gone->place;
    }
    free(gone->in.at);
    *gone = (struct client){0};
    close(fd);
}

static void deliver(struct channel *channel, const char *frames, size_t length)
{
    for (int i = channel->count - 1; i >= 0; i--)
        if (send(channel->subscribers[i], frames, length, MSG_NOSIGNAL) != (ssize_t)length)
            drop(channel->subscribers[i]);
}

static void publish(struct channel *channel, const char *text, size_t length)
{
    static struct bytes frame;
    uint8_t head[4] = {0x81, (uint8_t)length};
    size_t n = 2;
    if (length >= 126) { head[1] = 126; head[2] = (uint8_t)(length >> 8); head[3] = (uint8_t)length; n = 4; }
    struct bytes *to = joins ? &channel->joined : &frame;
    if (!joins) frame.length = 0;
    append(to, head, n);
    append(to, text, length);
    if (!joins) deliver(channel, frame.at, frame.length);
    else if (!channel->dirty) { channel->dirty = 1; dirty[dirty_count++] = (int)(channel - channels); }
}

static void subscribe(int fd, int number)
{
    struct channel *channel = &channels[number];
    if (channel->count == channel->room) {
        channel->room = channel->room * 2 + 4;
        channel->subscribers = realloc(channel->subscribers, sizeof(int) * (size_t)channel->room);
        if (!channel->subscribers) exit(1);
    }
    clients[fd].kind = SUBSCRIBER;
    clients[fd].channel = number;
    clients[fd].place = channel->count;
    channel->subscribers[channel->count++] = fd;
}

/* How much of what a client has sent could be used; -1 when it is to go. */
static ssize_t take(int fd, char *text, size_t length)
{
    struct client *from = &clients[fd];
    size_t used = 0;
    if (from->kind == NEW) {
        char *end = memmem(text, length, "\r\n\r\n", 4);
        if (!end) return 0;
        int number = 0, is_publisher = !strncmp(text, "GET /p ", 7);
        if (!is_publisher && (sscanf(text, "GET /s/%d ", &number) != 1 || number < 0 || number >= CHANNELS)) return -1;
        if (send(fd, ACCEPTED, sizeof ACCEPTED - 1, MSG_NOSIGNAL) < 0) return -1;
        if (is_publisher) from->kind = PUBLISHER; else subscribe(fd, number);
        used = (size_t)(end - text) + 4;
    }
    while (length - used >= 6) {
        uint8_t *head = (uint8_t *)text + used;
        size_t n = head[1] & 127, h = n == 126 ? 8 : 6;
        if (n == 127 || (head[0] & 15) == 8) return -1;
        if (length - used < h) break;
        if (h == 8) n = (size_t)head[2] << 8 | head[3];
        if (length - used < h + n) break;
        char *frame = text + used + h;
        for (size_t i = 0; i < n; i++) frame[i] ^= (char)head[h - 4 + (i & 3)];
        int number = n > 7 ? atoi(frame) : -1; /* six digits and a space */
        if (from->kind == PUBLISHER && number >= 0 && number < CHANNELS) publish(&channels[number], frame + 7, n - 7);
        used += h + n;
    }
    return (ssize_t)used;
}

static void read_from(int fd)
{
    struct bytes *in = &clients[fd].in;
    if (in->length) memcpy(buffer, in->at, in->length);
    ssize_t n = recv(fd, buffer + in->length, READ_BYTES - in->length - 1, 0), used;
    if (n < 0 && errno == EAGAIN) return;
    size_t length = in->length + (n > 0 ? (size_t)n : 0);
    buffer[length] = 0;
    if (n <= 0 || (used = take(fd, buffer, length)) < 0) { drop(fd); return; }
    in->length = 0;
    if ((size_t)used < length) append(in, buffer + used, length - (size_t)used);
}

int main(int count, char **words)
{
    static struct epoll_event events[512];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct rlimit files;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
    if (count < 2) { fputs("limit PORT [-j]\n", stderr); return 2; }
    at.sin_port = htons((uint16_t)atoi(words[1]));
    joins = count > 2 && !strcmp(words[2], "-j");
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur > CHANNELS) files.rlim_cur = CHANNELS;
    clients = calloc(files.rlim_cur, sizeof *clients);
    channels = calloc(CHANNELS, sizeof *channels);
    dirty = calloc(CHANNELS, sizeof *dirty);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) { perror("limit"); return 1; }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd != listener) { read_from(events[i].data.fd); continue; }
            for (int fd, n = 0; n < 64 && (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0; n++) {
                if ((rlim_t)fd >= files.rlim_cur) { close(fd); continue; }
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event.data.fd = fd;
                epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
            }
        }
        while (dirty_count) {
            struct channel *channel = &channels[dirty[--dirty_count]];
            deliver(channel, channel->joined.at, channel->joined.length);
            channel->joined.length = 0;
            channel->dirty = 0;
        }
    }
}
