/* Call a SIP and RTP echo over UDP and measure what comes back; bench/run.py compiles and runs it.

       load -s IP:PORT [-l IP] [-n CALLS] [-r RATE] [-t SECONDS] [-x SHORT_RATE] [-q]

   Sets up CALLS calls, RATE a second, that send 50 packets/s each; -q: none. When all are up and
   one second more has passed, prints "begin", lasts SECONDS, prints "end", stops the sound, says
   BYE, and prints one line of JSON. -x: so many short calls a second between "begin" and "end";
   each sends PACKETS packets and says BYE after a second.

   A round trip is from just before sendto, which is written into the payload, to the kernel's time
   stamp of what came back. So nothing has to wake us for it: we sleep until the next packet is due
   and look then, and the server pays for sending, not for waking us. One thread; one socket for
   all SIP and one for all RTP, where calls are told apart by the server's port. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MS INT64_C(1000000)     /* all times are in nanoseconds */
#define T1 (500 * MS)           /* RFC 3261 17.1.1.1 */
#define T2 (4000 * MS)
#define FRAME (20 * MS)
#define SETTLE (1000 * MS)      /* from the last call up to "begin" */
#define DRAIN (500 * MS)        /* from the last packet to the first BYE: what is late is not lost */
#define SHORT (1000 * MS)       /* what a short call lasts */
#define PACKETS 10              /* of a short call */
#define BYE_GAP (2 * MS)        /* between the calls that are ended */
#define BATCH 64
#define WORD 128                /* bytes kept of a tag or URI */

enum state { IDLE, INVITED, UP, LEAVING, OVER, FAILED };
enum event { START, RESEND, FRAME_DUE, HANG_UP };

struct call {
    enum state state;
    bool is_short, answered_100;
    uint16_t port;              /* of the server's RTP, network order */
    uint32_t sent, got;         /* packets */
    uint32_t newest;            /* number of the newest packet that came back, and which of the */
    uint64_t seen;              /*   64 up to it have come: bit 0 is the newest itself */
    int64_t asked;              /* when INVITE or BYE was first sent, real time */
    int64_t interval, again_at, give_up;    /* of its retransmission */
    char contact[WORD], tag[WORD];
};

struct timer { int64_t at; int call; enum event event; };
struct samples { float *ns; size_t count, room; };

struct packet {                 /* RTP, 20 ms of PCMA */
    uint8_t first, type;
    uint16_t sequence;
    uint32_t timestamp, ssrc;
    int64_t sent;               /* real time */
    uint32_t call, number;
    uint8_t pattern[144];
} __attribute__((packed));

static struct call *calls;
static struct timer *heap;
static int heap_count, steady = 0, started = 0, total = 0;
static int waiting, alive[2], up_ever, failed, refusal;    /* alive: steady, short */
static int held;                            /* steady calls up at "end" */
static int16_t call_at[65536];              /* the server's RTP port, network order: call, or -1 */
static int sip, rtp;
static struct sockaddr_in server, here, media;
static char run[16];                        /* names this run in Call-IDs and branches */
static double rate = 100, short_rate = 0, seconds = 10;
static bool quiet;
static int64_t window_begin, window_end;    /* real time; 0: not yet */
static bool sending = true;
static struct samples round_trips, set_ups, hang_ups, lateness;
static unsigned long twice, wrong, skipped, resends, repeats, byes_in;
static uint8_t ramp[256 + 144];

static int64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * 1000 * MS + t.tv_nsec;
}
static int64_t now(void) { return clock_ns(CLOCK_MONOTONIC); }      /* when to do what */
static int64_t real(void) { return clock_ns(CLOCK_REALTIME); }      /* the kernel's stamps */

static void die(const char *what) { perror(what); exit(2); }

static void *room_for(size_t count, size_t size) {
    void *room = calloc(count + 1, size);
    if (!room) die("memory");
    return room;
}

static void keep(struct samples *samples, int64_t ns) {
    if (samples->count < samples->room) samples->ns[samples->count++] = (float)ns;
}

/* Timers: a binary heap, the soonest first */

static void after(int64_t at, int call, enum event event) {
    int i = heap_count++;
    for (; i && heap[(i - 1) / 2].at > at; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = (struct timer){at, call, event};
}

static struct timer soonest(void) {
    struct timer top = heap[0], last = heap[--heap_count];
    int i = 0;
    for (int child; (child = 2 * i + 1) < heap_count; i = child) {
        if (child + 1 < heap_count && heap[child + 1].at < heap[child].at) child++;
        if (heap[child].at >= last.at) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

/* SIP */

static void send_sip(const char *text) {
    sendto(sip, text, strlen(text), 0, (struct sockaddr *)&server, sizeof server);
}

static void request(int number, const char *method, int cseq, const char *body) {
    struct call *call = &calls[number];
    char text[2048], us[32], them[32];
    snprintf(us, sizeof us, "%s:%d", inet_ntoa(here.sin_addr), ntohs(here.sin_port));
    snprintf(them, sizeof them, "%s:%d", inet_ntoa(server.sin_addr), ntohs(server.sin_port));
    snprintf(text, sizeof text,
             "%s sip:%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK%s-%d-%s;rport\r\n"
             "Max-Forwards: 70\r\nFrom: <sip:%d@%s>;tag=%s-%d\r\nTo: <sip:echo@%s>%s%s\r\n"
             "Call-ID: %s-%d\r\nCSeq: %d %s\r\nContact: <sip:%d@%s>\r\n%sContent-Length: %zu\r\n"
             "\r\n%s", method, *call->contact ? call->contact : them, us, run, number, method,
             number, us, run, number, them, *call->tag ? ";tag=" : "", call->tag, run, number, cseq,
             method, number, us, *body ? "Content-Type: application/sdp\r\n" : "", strlen(body),
             body);
    send_sip(text);
}

static void invite(int number) {
    char body[256];
    const char *ip = inet_ntoa(media.sin_addr);
    snprintf(body, sizeof body, "v=0\r\no=- %d 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\n"
             "m=audio %d RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\na=ptime:20\r\n", number + 1, ip, ip,
             ntohs(media.sin_port));
    request(number, "INVITE", 1, body);
}

static void ask(int number, enum state state) {
    struct call *call = &calls[number];
    call->state = state;
    call->asked = real();
    call->interval = T1;
    call->give_up = now() + 64 * T1;
    if (state == INVITED) invite(number); else request(number, "BYE", 2, "");
    after(call->again_at = now() + T1, number, RESEND);
}

static void finish(struct call *call, enum state state) {
    if (call->state == FAILED || call->state == OVER) return;
    waiting -= call->state == INVITED;
    failed += state == FAILED;
    alive[call->is_short]--;
    call->state = state;
}

static void resend(int number, int64_t due) {
    struct call *call = &calls[number];
    if ((call->state != INVITED && call->state != LEAVING) || due != call->again_at) return;
    if (now() >= call->give_up) { finish(call, FAILED); return; }
    if (call->state == LEAVING || !call->answered_100) {     /* RFC 3261 17.1.1.2, 17.1.2.2 */
        resends++;
        if (call->state == INVITED) invite(number); else request(number, "BYE", 2, "");
    }
    call->interval *= 2;
    if (call->state == LEAVING && call->interval > T2) call->interval = T2;
    after(call->again_at = now() + call->interval, number, RESEND);
}

/* Return the value of a header of a message, which ends with \r, or NULL. */
static const char *header(const char *text, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(text, "\r\n"); line && line[2] != '\r';
         line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, length) && line[2 + length] == ':')
            return line + 3 + length + strspn(line + 3 + length, " ");
    return NULL;
}

/* Copy what stands after a mark in a line, up to one of the ends. */
static void copy_after(char *word, const char *line, const char *mark, const char *ends) {
    const char *from = line ? strstr(line, mark) : NULL;
    size_t length = 0;
    if (from && from < line + strcspn(line, "\r")) {
        from += strlen(mark);
        length = strcspn(from, ends);
        if (length >= WORD) length = 0;
        memcpy(word, from, length);
    }
    word[length] = 0;
}

static void answer(const char *text) {
    const char *names[] = {"Via", "From", "To", "Call-ID", "CSeq"};
    char reply[2048];
    int size = snprintf(reply, sizeof reply, "SIP/2.0 200 OK\r\n");
    for (int i = 0; i < 5; i++) {
        const char *value = header(text, names[i]);
        if (!value || size > 1500) return;
        size += snprintf(reply + size, sizeof reply - size, "%s: %.*s\r\n", names[i],
                         (int)strcspn(value, "\r") & 255, value);
    }
    snprintf(reply + size, sizeof reply - size, "Content-Length: 0\r\n\r\n");
    send_sip(reply);
}

/* Where there are short calls, their replies are the ones that are timed. */
static bool is_counted(const struct call *call) { return call->is_short == (short_rate > 0); }

static void on_answered(int number, const char *text, int64_t came) {
    struct call *call = &calls[number];
    const char *audio = strstr(text, "\r\nm=audio ");
    if (call->state == INVITED) {
        copy_after(call->tag, header(text, "To"), ";tag=", ";\r");
        copy_after(call->contact, header(text, "Contact"), "<sip:", ">\r");
        if (is_counted(call)) keep(&set_ups, came - call->asked);
        call->port = htons(audio ? atoi(audio + 10) : 0);
        call_at[call->port] = number;
        call->state = UP;
        up_ever++;
        waiting--;
        int64_t at = now(), phase = call->is_short ? at % FRAME : number * FRAME / steady;
        if (!quiet) after(at + FRAME - (at - phase) % FRAME, number, FRAME_DUE);
        if (call->is_short) after(at + SHORT, number, HANG_UP);
    } else {
        repeats++;                          /* our ACK was lost, or late */
    }
    request(number, "ACK", 1, "");
}

static void on_sip(const char *text, int64_t came) {
    const char *id = header(text, "Call-ID"), *cseq = header(text, "CSeq");
    size_t length = strlen(run);
    if (!id || !cseq || strncmp(id, run, length) || id[length] != '-') return;
    int number = atoi(id + length + 1);
    if (number < 0 || number >= started) return;
    struct call *call = &calls[number];
    bool is_invite = strstr(cseq, "INVITE") && strstr(cseq, "INVITE") < cseq + strcspn(cseq, "\r");
    int status = strncmp(text, "SIP/2.0 ", 8) ? 0 : atoi(text + 8);
    if (!status) {
        if (!strncmp(text, "BYE ", 4)) { byes_in++; finish(call, FAILED); }
        answer(text);
    } else if (status < 200) {
        call->answered_100 = true;
    } else if (is_invite && status < 300) {
        on_answered(number, text, came);
    } else if (is_invite) {
        refusal = status;
        finish(call, FAILED);
        copy_after(call->tag, header(text, "To"), ";tag=", ";\r");
        request(number, "ACK", 1, "");
    } else if (call->state == LEAVING) {
        if (is_counted(call)) keep(&hang_ups, came - call->asked);
        if (status >= 300) refusal = status;
        finish(call, status < 300 ? OVER : FAILED);
    }
}

/* RTP */

static void send_frame(struct timer due) {
    struct call *call = &calls[due.call];
    if (call->state != UP || (call->is_short ? call->sent == PACKETS : !sending)) return;
    int64_t late = now() - due.at;
    if (window_begin && !window_end) keep(&lateness, late);
    if (late < FRAME) {
        struct packet packet = {0x80, 8, htons(call->sent), htonl(call->sent * 160),
                                htonl(0x10AD0000 + due.call), 0, due.call, call->sent, {0}};
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = call->port,
                                 .sin_addr = server.sin_addr};
        memcpy(packet.pattern, ramp + ((due.call * 31 + call->sent * 7) & 255), 144);
        packet.sent = real();
        if (sendto(rtp, &packet, sizeof packet, 0, (struct sockaddr *)&to, sizeof to) > 0)
            call->sent++;
        else
            skipped++;
    } else {
        skipped++;                          /* we were held up: that is not the server's loss */
    }
    after(due.at + FRAME, due.call, FRAME_DUE);
}

/* Say whether a packet comes for the first time. */
static bool is_new(struct call *call, uint32_t number) {
    if (!call->got || number > call->newest) {
        uint32_t step = call->got ? number - call->newest : 64;
        call->seen = (step < 64 ? call->seen << step : 0) | 1;
        call->newest = number;
        return true;
    }
    uint32_t age = call->newest - number;
    if (age > 63 || call->seen >> age & 1) return age > 63;
    call->seen |= UINT64_C(1) << age;
    return true;
}

static void on_rtp(const struct packet *packet, size_t size, uint16_t port, int64_t came) {
    struct call *call = &calls[packet->call < (uint32_t)started ? packet->call : 0];
    if (size != sizeof *packet || call_at[port] < 0 || packet->call != (uint32_t)call_at[port] ||
        packet->first != 0x80 || (packet->type & 127) != 8 || packet->number >= call->sent ||
        memcmp(packet->pattern, ramp + ((packet->call * 31 + packet->number * 7) & 255), 144)) {
        wrong++;
    } else if (!is_new(call, packet->number)) {
        twice++;
    } else {
        call->got++;
        if (window_begin && packet->sent >= window_begin &&
            (!window_end || packet->sent < window_end))
            keep(&round_trips, came - packet->sent);
    }
}

/* Take all that has come to a socket. */
static void receive(int sock) {
    static char data[BATCH][2048], control[BATCH][64];
    static struct sockaddr_in from[BATCH];
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    int count;
    do {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){data[i], sizeof data[i] - 1};
            messages[i].msg_hdr = (struct msghdr){&from[i], sizeof from[i], &parts[i], 1,
                                                  control[i], sizeof control[i], 0};
        }
        count = recvmmsg(sock, messages, BATCH, MSG_DONTWAIT, NULL);
        for (int i = 0; i < count; i++) {
            struct cmsghdr *note = CMSG_FIRSTHDR(&messages[i].msg_hdr);
            struct timespec at;
            if (!note || note->cmsg_type != SO_TIMESTAMPNS) continue;
            memcpy(&at, CMSG_DATA(note), sizeof at);
            int64_t came = at.tv_sec * 1000 * MS + at.tv_nsec;
            data[i][messages[i].msg_len] = 0;
            if (sock == sip) on_sip(data[i], came);
            else on_rtp((struct packet *)data[i], messages[i].msg_len, from[i].sin_port, came);
        }
    } while (count == BATCH);
}

static int open_socket(struct sockaddr_in *at) {
    int sock = socket(AF_INET, SOCK_DGRAM, 0), size = 64 << 20, on = 1;
    socklen_t length = sizeof *at;
    if (sock < 0 || bind(sock, (struct sockaddr *)at, sizeof *at)) die("bind");
    getsockname(sock, (struct sockaddr *)at, &length);
    if (setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))   /* root's alone */
        setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(sock, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    return sock;
}

/* The run */

static void fire(struct timer due) {
    switch (due.event) {
    case START: ask(due.call, INVITED); break;
    case RESEND: resend(due.call, due.at); break;
    case FRAME_DUE: send_frame(due); break;
    case HANG_UP: if (calls[due.call].state == UP) ask(due.call, LEAVING); break;
    }
}

/* Do what is due and take what has come until a time, or until a condition of the run holds. */
static void run_until(int64_t end, bool (*done)(void)) {
    for (int64_t at; (at = now()) < end && !(done && done());) {
        while (heap_count && heap[0].at <= at) fire(soonest());
        receive(sip);
        receive(rtp);
        int64_t wake = now() + MS;
        if (heap_count && heap[0].at < wake) wake = heap[0].at;
        struct timespec until = {wake / (1000 * MS), wake % (1000 * MS)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
}

static bool all_up(void) { return !waiting; }
static bool all_ended(void) { return !alive[false] && !alive[true]; }
static bool short_ended(void) { return !alive[true]; }

static void start_calls(int count, double per_second, bool is_short) {
    int64_t begin = now();
    waiting += count;
    alive[is_short] += count;
    for (int i = 0; i < count; i++) {
        calls[started].is_short = is_short;
        after(begin + (int64_t)(i / per_second * 1e9), started++, START);
    }
}

static int by_value(const void *one, const void *other) {
    float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

static void show(const char *name, struct samples *samples) {
    const double shares[] = {0.5, 0.99, 0.999, 1};
    const char *names[] = {"p50", "p99", "p999", "max"};
    qsort(samples->ns, samples->count, sizeof *samples->ns, by_value);
    for (int i = 0; i < 4 && samples->count; i++) {
        size_t at = (size_t)(shares[i] * samples->count);
        if (at >= samples->count) at = samples->count - 1;
        printf("\"%s_%s\": %.4f, ", name, names[i], samples->ns[at] / 1e6);
    }
}

static void show_all(void) {
    unsigned long sent = 0, lost = 0;
    int lossy = 0;
    for (int i = 0; i < started; i++) {
        sent += calls[i].sent;
        lost += calls[i].sent - calls[i].got;
        lossy += calls[i].got < calls[i].sent;
    }
    printf("{\"started\": %d, \"up\": %d, \"held\": %d, \"failed\": %d, \"refusal\": %d, "
           "\"byes_in\": %lu, \"resends\": %lu, \"repeats\": %lu, \"sent\": %lu, \"lost\": %lu, "
           "\"lossy\": %d, \"twice\": %lu, \"wrong\": %lu, \"skipped\": %lu, ",
           started, up_ever, held, failed, refusal, byes_in, resends, repeats, sent, lost, lossy,
           twice, wrong, skipped);
    show("set_up", &set_ups);
    show("bye", &hang_ups);
    show("round_trip", &round_trips);
    show("late", &lateness);
    printf("\"unit\": \"ms\"}\n");
}

static void read_options(int argc, char **argv) {
    char ip[64] = "127.0.0.1";
    int port = 5060, option;
    here.sin_family = server.sin_family = AF_INET;
    here.sin_addr.s_addr = inet_addr("127.0.0.2");
    while ((option = getopt(argc, argv, "s:l:n:r:t:x:q")) != -1) {
        switch (option) {
        case 's': sscanf(optarg, "%63[^:]:%d", ip, &port); break;
        case 'l': here.sin_addr.s_addr = inet_addr(optarg); break;
        case 'n': steady = atoi(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'x': short_rate = atof(optarg); break;
        case 'q': quiet = true; break;
        default: exit(2);
        }
    }
    server.sin_addr.s_addr = inet_addr(ip);
    server.sin_port = htons(port);
    media = here;
    total = steady + (int)(short_rate * seconds);
    if (total > INT16_MAX) { fprintf(stderr, "at most %d calls\n", INT16_MAX); exit(2); }
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    prctl(PR_SET_TIMERSLACK, 1);
    prctl(PR_SET_PDEATHSIG, 9);
    snprintf(run, sizeof run, "%x", getpid());
    memset(call_at, -1, sizeof call_at);
    for (size_t i = 0; i < sizeof ramp; i++) ramp[i] = i;
    calls = room_for(total, sizeof *calls);
    heap = room_for(4 * total + 4, sizeof *heap);
    size_t packets = (size_t)(steady * (seconds + 1) * 50) + (size_t)total * (PACKETS + 1);
    struct samples *all[] = {&round_trips, &lateness, &set_ups, &hang_ups};
    for (int i = 0; i < 4; i++) {
        all[i]->room = i < 2 ? packets : (size_t)total;
        all[i]->ns = room_for(all[i]->room, sizeof(float));
    }
    struct sockaddr_in reports = media;
    sip = open_socket(&here);
    rtp = open_socket(&media);
    reports.sin_port = htons(ntohs(media.sin_port) + 1);
    int least = 1, rtcp = open_socket(&reports);    /* never read: but no ICMP comes of reports */
    setsockopt(rtcp, SOL_SOCKET, SO_RCVBUF, &least, sizeof least);

    start_calls(steady, rate, false);
    run_until(INT64_MAX, all_up);
    run_until(now() + SETTLE, NULL);
    window_begin = real();
    puts("begin");
    fflush(stdout);
    start_calls(total - steady, short_rate, true);
    run_until(now() + (int64_t)(seconds * 1e9), NULL);
    window_end = real();
    held = alive[false];
    puts("end");
    fflush(stdout);
    sending = false;
    run_until(now() + DRAIN, NULL);
    run_until(now() + 70 * T1, short_ended);
    for (int i = 0; i < steady; i++) after(now() + i * BYE_GAP, i, HANG_UP);
    run_until(now() + steady * BYE_GAP + 65 * T1, all_ended);
    show_all();
    return 0;
}
