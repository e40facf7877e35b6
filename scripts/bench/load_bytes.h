/*
 * The parts of load.c that touch no socket: growing bytes, masked frames, filled texts, the histogram of latencies.
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SECOND 1000000000ull
#define STEPS 32 /* of each power of two, in the histogram: within 3 % of the truth */

struct bytes { char *at; size_t length, room; };

static unsigned long long histogram[64 * STEPS], counted, slowest;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void fail(const char *sentence, ...)
{
    va_list rest;
    va_start(rest, sentence);
    fputs("load: ", stderr);
    vfprintf(stderr, sentence, rest);
    fputc('\n', stderr);
    exit(1);
}

static void append(struct bytes *to, const void *from, size_t length)
{
    if (to->length + length > to->room) {
        to->room = (to->length + length) * 2;
        if (!(to->at = realloc(to->at, to->room))) fail("out of memory");
    }
    memcpy(to->at + to->length, from, length);
    to->length += length;
}

/* The text with {c} the channel, {n} the number in it, {t} the time. */
static void fill(struct bytes *to, const char *text, unsigned channel, uint64_t n, uint64_t time)
{
    char number[24];
    for (const char *end; *text; text = end) {
        if (text[0] == '{' && text[1] && text[2] == '}' && strchr("cnt", text[1])) {
            unsigned long long value = text[1] == 'n' ? n : time;
            int length = text[1] == 'c' ? sprintf(number, "%06u", channel) : sprintf(number, "%llu", value);
            append(to, number, (size_t)length);
            end = text + 3;
        } else {
            end = strchrnul(text + 1, '{');
            append(to, text, (size_t)(end - text));
        }
    }
}

static void count(uint64_t latency)
{
    unsigned exponent = latency < STEPS ? 0 : 59 - (unsigned)__builtin_clzll(latency);
    unsigned step = (unsigned)(exponent ? latency >> (exponent - 1) : latency) & (STEPS - 1);
    histogram[exponent * STEPS + step]++;
    counted++;
    if (latency > slowest) slowest = latency;
}

static double quantile_ms(double part)
{
    uint64_t passed = 0;
    for (unsigned i = 0; i < 64 * STEPS; i++) {
        passed += histogram[i];
        if (passed > (uint64_t)(part * (double)counted)) {
            unsigned exponent = i / STEPS;
            double low = exponent ? (double)((uint64_t)(i % STEPS | STEPS) << (exponent - 1)) : i;
            double middle = low + (exponent ? (double)(1ull << (exponent - 1)) : 1) / 2;
            return (middle < (double)slowest ? middle : (double)slowest) / 1e6;
        }
    }
    return 0;
}

/* A whole frame, masked with a key of its own as a client's must be (RFC 6455, section 5.3). */
static void append_frame(struct bytes *to, int opcode, const char *text, size_t length)
{
    static uint64_t state;
    if (!state) state = now();
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    uint8_t head[14] = {(uint8_t)(0x80 | opcode)}, mask[4];
    size_t n = 2;
    memcpy(mask, &state, 4);
    if (length < 126) head[1] = (uint8_t)(0x80 | length);
    else if (length < 65536) { head[1] = 0xfe; head[2] = (uint8_t)(length >> 8); head[3] = (uint8_t)length; n = 4; }
    else { head[1] = 0xff; for (int i = 0; i < 8; i++) head[n++] = (uint8_t)(length >> (56 - 8 * i)); }
    memcpy(head + n, mask, 4);
    append(to, head, n + 4);
    append(to, text, length);
    for (size_t i = 0; i < length; i++) to->at[to->length - length + i] ^= (char)mask[i & 3];
}
