/* Opens event streams on one loopback port, and counts and times what they bring: one thread, epoll.
 *
 *     load PORT PATH|@FILE
 *
 * FILE has a path a line: the first stream is of the first, and so on, round and round. It
 * obeys one command a line and answers with one line of JSON; what comes meanwhile is read all the same.
 *
 *     open N AT_ONCE LAST_ID EVENTS   N more streams, AT_ONCE of them not yet answered; done when each has its 200 and has
 *                                     brought so many events. LAST_ID is what they send as Last-Event-ID, "-" for nothing.
 *     measure EVENTS SECONDS          begins when an event has reached all streams, which "begin" tells; done when so many
 *                                     more have been brought to all, or the time is over.
 *     count SECONDS                   begins at once, which "begin" tells; done when the time is over. Each event with an id
 *                                     counts, whatever is in it.
 *     close                           every stream: half of them properly, half cut off.
 *
 * An event is told by its `"at":"...T12:34:56.789Z"`, and late by what the clock says beyond that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MOST_STREAMS = 65536,
    READ = 1 << 16,
    MARK = 6,                 /* "at":" */
    STAMP = MARK + 24,        /* ... and 2026-11-22T21:40:01.123Z */
    KNOWN_EVENTS = 64,        /* newest ones, of which it is counted how many streams have had them */
    BUCKET = 100,             /* microseconds */
    BUCKETS = 60 * 10000,
    OPEN_SECONDS = 60,
    DAY = 24 * 60 * 60,
};

typedef struct {
    int fd;
    bool asked, served;
    int carried;              /* bytes at the end of the last read that may be the start of a mark */
    unsigned id_seen;         /* bytes of ID_LINE that the last read ended with */
    long events;              /* since it was opened */
    char carry[STAMP];
} Stream;

typedef struct {
    int64_t at, last;         /* microseconds of the day, and when the newest of its deliveries came */
    long streams;             /* which have had it */
    bool fresh;               /* it first came after a measurement was asked for */
} Event;

typedef struct {
    unsigned bucket[BUCKETS];
    long count;
} Times;

static Stream streams[MOST_STREAMS];
static int opened, wanted, at_once, served, level, level_at, lost;
static char last_id[64];
static int64_t open_since;

static Event events[KNOWN_EVENTS];
static unsigned newest;
static Times each, to_last;
static bool waiting, measuring, counting;
static long ids, deliveries, deliveries_wanted, completed;
static int64_t bytes, since, until;
static double cpu_since;

static int poll_fd, port;
static char **paths;
static int path_count;
static const char ID_LINE[] = "\nid: ";
static char room[STAMP + READ];

static int64_t clock_us(clockid_t which)
{
    struct timespec now;
    clock_gettime(which, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static double cpu(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void add(Times *times, int64_t us)
{
    int64_t bucket = us < 0 ? 0 : us / BUCKET;
    times->bucket[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    times->count++;
}

static double quantile_ms(const Times *times, double share)
{
    long before = (long)(times->count * share), bucket = 0;
    for (long seen = 0; bucket < BUCKETS && (seen += times->bucket[bucket]) <= before && seen < times->count;)
        bucket++;
    return times->count ? (bucket + 1) * BUCKET / 1e3 : 0;
}

static void watch(Stream *stream, int how, uint32_t what)
{
    struct epoll_event event = {.events = what, .data.ptr = stream};
    if (epoll_ctl(poll_fd, how, stream->fd, &event) < 0)
        fail("epoll_ctl");
}

static void open_next(void)
{
    Stream *stream = &streams[opened++];
    memset(stream, 0, sizeof *stream);
    stream->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (stream->fd < 0)
        fail("socket");
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(stream->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        fail("connect");
    watch(stream, EPOLL_CTL_ADD, EPOLLOUT);
}

static void ask(Stream *stream)
{
    char request[1024];
    bool first = !strcmp(last_id, "-");
    const char *path = paths[(stream - streams) % path_count];
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n%s%s%s\r\n", path,
                          first ? "" : "Last-Event-ID: ", first ? "" : last_id, first ? "" : "\r\n");
    if (write(stream->fd, request, length) != length)
        fail("write");
    stream->asked = true;
    watch(stream, EPOLL_CTL_MOD, EPOLLIN);
}

static void begin_measuring(void)
{
    waiting = false;
    measuring = true;
    deliveries = completed = bytes = 0;
    each = to_last = (Times){0};
    since = clock_us(CLOCK_MONOTONIC);
    cpu_since = cpu();
    puts("begin");
    fflush(stdout);
}

static void finish(Stream *stream, bool properly)
{
    struct linger cut = {.l_onoff = 1};
    if (!properly)
        setsockopt(stream->fd, SOL_SOCKET, SO_LINGER, &cut, sizeof cut);
    close(stream->fd);
    stream->fd = -1;
}

static void take(Stream *stream, const char *stamp, int64_t now)
{
    int hour, minute, second, milli;
    if (sscanf(stamp + MARK + 11, "%2d:%2d:%2d.%3dZ", &hour, &minute, &second, &milli) != 4)
        return;
    int64_t at = (((hour * 60 + minute) * 60 + second) * (int64_t)1000 + milli) * 1000, late = now - at;
    Event *event = NULL;
    for (unsigned back = 0; back < KNOWN_EVENTS && !event; back++)
        if (events[(newest - back) % KNOWN_EVENTS].at == at)
            event = &events[(newest - back) % KNOWN_EVENTS];
    if (!event) {
        event = &events[++newest % KNOWN_EVENTS];
        *event = (Event){.at = at, .fresh = waiting};
    }
    event->last = now;
    stream->events++;
    if (stream->events == level_at)
        level++;
    if (late < 0)
        late += (int64_t)DAY * 1000000;
    if (measuring) {
        deliveries++;
        add(&each, late);
    }
    if (++event->streams < opened - lost)
        return;
    if (measuring) {
        completed++;
        add(&to_last, late);
    } else if (waiting && event->fresh)
        begin_measuring();
}

static void receive(Stream *stream)
{
    ssize_t got = read(stream->fd, room + STAMP, READ);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0 || (!stream->served && memcmp(room + STAMP, "HTTP/1.1 200", 12))) {
        if (got > 0)
            fprintf(stderr, "%.*s\n", (int)(got < 60 ? got : 60), room + STAMP);
        lost++;
        finish(stream, true);
        return;
    }
    if (!stream->served) {
        stream->served = true;
        served++;
    }
    if (measuring)
        bytes += got;
    for (const char *byte = room + STAMP; counting && byte < room + STAMP + got; byte++) {
        stream->id_seen = *byte == ID_LINE[stream->id_seen] ? stream->id_seen + 1 : *byte == ID_LINE[0];
        if (stream->id_seen == sizeof ID_LINE - 1) {
            ids++;
            stream->id_seen = 0;
        }
    }
    int64_t now = clock_us(CLOCK_REALTIME) % ((int64_t)DAY * 1000000);
    char *from = room + STAMP - stream->carried, *end = room + STAMP + got, *mark;
    memcpy(from, stream->carry, stream->carried);
    while ((mark = memmem(from, end - from, "\"at\":\"", MARK)) && end - mark >= STAMP) {
        take(stream, mark, now);
        from = mark + STAMP;
    }
    stream->carried = end - from < STAMP - 1 ? end - from : STAMP - 1;
    memcpy(stream->carry, end - stream->carried, stream->carried);
}

/* Whether a command is under way; answers it once it is done. */
static bool busy(void)
{
    int64_t now = clock_us(CLOCK_MONOTONIC);
    if (wanted) {
        while (opened < wanted && opened - served - lost < at_once)
            open_next();
        bool done = served == wanted && (!level_at || level == wanted);
        if (!done && !lost && now - open_since < OPEN_SECONDS * (int64_t)1000000)
            return true;
        printf("{\"seconds\":%.4f,\"served\":%d,\"level\":%d,\"lost\":%d}\n", (now - open_since) / 1e6, served, level, lost);
        wanted = 0;
    } else if (waiting || measuring) {
        if (now < until && !(measuring && !counting && deliveries >= deliveries_wanted))
            return true;
        deliveries = counting ? ids : deliveries;
        printf("{\"deliveries\":%ld,\"seconds\":%.4f,\"cpu\":%.4f,\"bytes\":%lld,\"lost\":%d,\"completed\":%ld,"
               "\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f,\"last_p99\":%.1f}\n",
               deliveries, (now - since) / 1e6, cpu() - cpu_since, (long long)bytes, lost, completed,
               quantile_ms(&each, .5), quantile_ms(&each, .99), quantile_ms(&each, 1), quantile_ms(&to_last, .99));
        waiting = measuring = counting = false;
    } else
        return false;
    fflush(stdout);
    return false;
}

static void obey(const char *line)
{
    int count, more;
    double seconds;
    if (sscanf(line, "open %d %d %63s %d", &count, &at_once, last_id, &level_at) == 4) {
        wanted = opened + count < MOST_STREAMS ? opened + count : MOST_STREAMS;
        level = 0;
        open_since = clock_us(CLOCK_MONOTONIC);
    } else if (sscanf(line, "measure %d %lf", &more, &seconds) == 2) {
        waiting = true;
        deliveries = 0;
        deliveries_wanted = (long)more * opened;
        since = clock_us(CLOCK_MONOTONIC);
        until = since + (int64_t)(seconds * 1e6);
    } else if (sscanf(line, "count %lf", &seconds) == 1) {
        counting = true;
        ids = 0;
        begin_measuring();
        until = since + (int64_t)(seconds * 1e6);
    } else if (!strncmp(line, "close", 5)) {
        for (int index = 0; index < opened; index++)
            if (streams[index].fd >= 0)
                finish(&streams[index], index % 2);
        opened = served = level = lost = 0;
        puts("{}");
        fflush(stdout);
    }
}

/* The path itself, or those in the file that it names. */
static void read_paths(char *named)
{
    static char *one[1];
    one[0] = named;
    paths = one;
    path_count = 1;
    if (named[0] != '@')
        return;
    FILE *file = fopen(named + 1, "r");
    if (!file)
        fail(named + 1);
    paths = calloc(MOST_STREAMS, sizeof *paths);
    path_count = 0;
    char line[512];
    while (path_count < MOST_STREAMS && fscanf(file, "%511s", line) == 1)
        paths[path_count++] = strdup(line);
    fclose(file);
}

int main(int count, char **words)
{
    port = count == 3 ? atoi(words[1]) : 0;
    read_paths(words[count - 1]);
    poll_fd = epoll_create1(0);
    struct epoll_event commands = {.events = EPOLLIN}, ready[512];
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &commands) < 0)
        fail("epoll_ctl");
    for (;;) {
        int found = epoll_wait(poll_fd, ready, 512, busy() ? 50 : -1);
        for (int index = 0; index < found; index++) {
            Stream *stream = ready[index].data.ptr;
            char line[128];
            if (stream) {
                if (stream->fd >= 0)
                    stream->asked ? receive(stream) : ask(stream);
                continue;
            }
            ssize_t got = read(STDIN_FILENO, line, sizeof line - 1);
            if (got <= 0)
                return 0;
            line[got] = 0;
            obey(line);
        }
    }
}
