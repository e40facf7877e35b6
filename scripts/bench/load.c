/*
 * load - the client of `python3 scripts/bench delivery`: opens subscribers, publishes, and counts what comes back.
 *
 * One thread and one epoll for publisher and subscribers: one clock, and an exact window. A delivery is a message
 * that holds "seq": and behind it "ts": with the nanoseconds (CLOCK_MONOTONIC) at which it was, or was to be,
 * published. Each subscriber must get 1, 2, 3 ... of its channel; the result says whether it did.
 *
 * Lines of JSON on stdout: "ready" when all have subscribed, "begin" and "end" of the measurement, "done" with the
 * figures. Whoever reads them looks at the server's clocks at that moment. Times out of the schedule are not omitted.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <sys/resource.h>

#include "load_peer.h"

static int idle;
static unsigned subscribers = 1, window, grouped = 1, in_group;
static double rate, seconds = 5, warmup = 1, patience = 30;
static const char *message = "";
static struct peer *peers, *publisher;
static struct bytes group; /* messages that go in one frame, as a JSON array */
static unsigned long long published;

static void send_group(void)
{
    if (!in_group) return;
    append(&group, "]", 1);
    append_frame(&publisher->out, 1, group.at, group.length);
    in_group = 0;
    group.length = 0;
}

static void publish(uint64_t time)
{
    static struct bytes text;
    unsigned channel = (unsigned)(published % channels);
    text.length = 0;
    fill(&text, message, channel, published++ / channels + 1, time);
    if (*publish_path == 'h') {
        struct bytes *out = &publisher->out;
        char rest[128];
        append(out, "POST ", 5);
        fill(out, publish_path + 5, channel, 0, 0);
        int n = sprintf(rest, " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %zu\r\n\r\n", text.length);
        append(out, rest, (size_t)n);
        append(out, text.at, text.length);
    } else if (grouped > 1) {
        append(&group, in_group++ ? "," : "[", 1);
        append(&group, text.at, text.length);
        if (in_group == grouped) send_group();
    } else append_frame(&publisher->out, 1, text.at, text.length);
}

/* Until that time; in a closed loop at least until a whole window has been delivered. */
static void publish_until(uint64_t end, uint64_t *due)
{
    uint64_t each = subscribers / channels, whole = delivered + window * each, time;
    while (((time = now()) < end || delivered < whole) && !lost && time < end + (uint64_t)(patience * 1e9)) {
        uint64_t next = time + SECOND / 50;
        if (window) while (published * each < delivered + window * each) publish(time = now());
        else for (; *due <= time; *due += (uint64_t)(1e9 / rate)) publish(*due);
        send_group();
        if (publisher->out.length && !publisher->wants_out) flush(publisher);
        if (!window && *due < next) next = *due;
        poll_until(time < end && end < next ? end : next);
    }
}

static void say(const char *what)
{
    printf("{\"at\":\"%s\"}\n", what);
    fflush(stdout);
}

static double own_cpu(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec)
           + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void connect_all(void)
{
    uint64_t began = now(), end = began + (uint64_t)(patience * 1e9);
    for (unsigned started = 0; opened < subscribers && !lost && now() < end; poll_until(now() + SECOND / 100))
        for (; started < subscribers && started - opened < CONNECTING_AT_ONCE; started++)
            start(&peers[started], started, 0);
    double took = (double)(now() - began) / 1e9;
    if (opened < subscribers) fail("%llu of %u have subscribed in %g s", opened, subscribers, took);
    printf("{\"at\":\"ready\",\"connections\":%u,\"seconds\":%.6f,\"other\":%llu}\n", subscribers, took, other);
    fflush(stdout);
}

static void hold(void) /* until whoever has started this closes its end */
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    char byte;
    fcntl(0, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event)) fail("standard input must be a pipe");
    while (!lost && read(0, &byte, 1) < 0) poll_until(now() + SECOND / 10);
    printf("{\"at\":\"done\",\"lost\":%llu,\"refused\":%llu,\"other\":%llu}\n", lost, refused, other);
}

static void measure(void)
{
    uint64_t due = now(), end;
    for (; publisher->state != OPEN && !lost && now() < due + 10 * SECOND;) poll_until(now() + SECOND / 100);
    if (publisher->state != OPEN) fail("the publisher could not begin");
    due = now();
    publish_until(now() + (uint64_t)(warmup * 1e9), &due);
    say("begin");
    uint64_t begin = measured_from = now();
    unsigned long long before = delivered, published_before = published;
    double cpu = own_cpu();
    publish_until(begin + (uint64_t)(seconds * 1e9), &due);
    end = now();
    uint64_t took = end - begin;
    unsigned long long measured = delivered - before, all = published * (subscribers / channels), short_of = 0;
    cpu = own_cpu() - cpu;
    say("end");
    published_before = published - published_before;
    while (delivered < all && !lost && now() < end + (uint64_t)(patience * 1e9)) poll_until(now() + SECOND / 50);
    for (unsigned i = 0; i < subscribers; i++)
        short_of += peers[i].seq != published / channels + (i % channels < published % channels);
    printf("{\"at\":\"done\",\"seconds\":%.6f,\"deliveries\":%llu,\"publishes\":%llu,\"client_cpu\":%.6f,",
           (double)took / 1e9, measured, published_before, cpu);
    printf("\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"max_ms\":%.4f,\"latencies\":%llu,", quantile_ms(.5), quantile_ms(.99),
           (double)slowest / 1e6, counted);
    printf("\"published\":%llu,\"delivered\":%llu,\"wanted\":%llu,\"misplaced\":%llu,\"short_of\":%llu,", published,
           delivered, all, misplaced, short_of);
    printf("\"refused\":%llu,\"lost\":%llu,\"other\":%llu}\n", refused, lost, other);
}

int main(int count_, char **words)
{
    for (int option; (option = getopt(count_, words, "p:n:c:u:m:a:P:U:A:M:g:w:r:t:T:d:k:x:i")) != -1;) switch (option) {
        case 'p': port = atoi(optarg); break; /* of the server, on this machine */
        case 'n': subscribers = (unsigned)atoi(optarg); break;
        case 'c': channels = (unsigned)atoi(optarg); break; /* subscriber i is on channel i % c */
        case 'u': path = optarg; break; /* of a subscriber's upgrade */
        case 'm': if (first_count < 4) first[first_count++] = optarg; break; /* what it says then */
        case 'a': ready_text = optarg; break; /* it has subscribed when this has come */
        case 'P': publish_path = optarg; break; /* ws:PATH or http:PATH */
        case 'U': if (hello_count < 4) hello[hello_count++] = optarg; break;
        case 'A': publisher_ready_text = optarg; break;
        case 'M': message = optarg; break; /* what is published */
        case 'g': grouped = (unsigned)atoi(optarg); break; /* messages in a frame at most, as a JSON array */
        case 'w': window = (unsigned)atoi(optarg); break; /* closed loop: messages whose deliveries are under way */
        case 'r': rate = atof(optarg); break; /* open loop: so many a second */
        case 't': seconds = atof(optarg); break;
        case 'T': warmup = atof(optarg); break;
        case 'd': patience = atof(optarg); break; /* seconds for all to subscribe, and for the last deliveries */
        case 'k': ping = strtok(optarg, "="); pong = strtok(NULL, ""); break; /* PING=PONG: beginnings of frames */
        case 'x': refusal = optarg; break; /* a frame that holds this refuses something */
        case 'i': idle = 1; break; /* publish nothing: hold the connections */
        default: return 2;
    }
    if (!port || !channels || !subscribers || subscribers % channels) fail("-p, and -n a multiple of -c");
    if (!idle && !window == !(rate > 0)) fail("one of -w, -r and -i");
    signal(SIGPIPE, SIG_IGN);
    epoll = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event);
    peers = calloc(subscribers + 1, sizeof *peers);
    publisher = &peers[subscribers];
    connect_all();
    if (idle) hold();
    else {
        start(publisher, subscribers, 1);
        measure();
    }
    return 0;
}
