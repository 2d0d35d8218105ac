/* The least an echo can be: what bench/run.py holds the server against.

       echo IP PORT

   One thread and one epoll. Answers INVITE with a socket of the call's own, sends back the RTP
   that comes to it from the address of the caller's description, under its own SSRC and sequence
   numbers, and closes it at BYE. It believes what it reads, as nothing that is on a network may. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define CALLS 16384
#define MAX_PACKET 2048

struct call {
    uint64_t id;                /* made of the Call-ID; 0: free */
    int fd;
    uint16_t port, sequence;    /* port: ours */
    uint32_t ssrc;
    struct sockaddr_in caller;  /* where its description says */
};

static struct call calls[CALLS];
static int used, sip, epoll;
static const char *ip;
static struct sockaddr_in here;

static void die(const char *what) { perror(what); exit(1); }

static int open_socket(struct sockaddr_in *at) {
    socklen_t length = sizeof *at;
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (sock < 0 || bind(sock, (struct sockaddr *)at, sizeof *at)) die("socket");
    getsockname(sock, (struct sockaddr *)at, &length);
    return sock;
}

static void watch(int fd, struct call *call) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = call};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll");
}

static struct call *find(uint64_t id) {
    for (int i = 0; i < used; i++)
        if (calls[i].id == id) return &calls[i];
    return NULL;
}

/* Return the value of a header, which ends with \r, or an empty one. */
static const char *header(const char *text, const char *name) {
    const char *line = strstr(text, name);
    return line ? line + strlen(name) : "\r";
}

static uint64_t id_of(const char *text) {
    uint64_t id = 1469598103934665603u;     /* FNV-1a */
    for (const char *c = header(text, "\r\nCall-ID: "); *c != '\r'; c++)
        id = (id ^ (uint8_t)*c) * 1099511628211u;
    return id | 1;
}

static struct call *begin(const char *text, uint64_t id) {
    struct call *call = find(id);           /* the same INVITE again */
    if (call) return call;
    call = find(0);
    if (!call && used == CALLS) return NULL;
    if (!call) call = &calls[used++];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = here.sin_addr};
    *call = (struct call){.id = id, .fd = open_socket(&at), .port = ntohs(at.sin_port),
                          .sequence = random(), .ssrc = random(), .caller.sin_family = AF_INET};
    char address[32] = "";
    sscanf(header(text, "\r\nc=IN IP4 "), "%31[0-9.]", address);
    call->caller.sin_addr.s_addr = inet_addr(address);
    call->caller.sin_port = htons(atoi(header(text, "\r\nm=audio ")));
    watch(call->fd, call);
    return call;
}

static void end(struct call *call) {
    close(call->fd);
    call->id = 0;
}

static void on_sip(char *text, ssize_t size, const struct sockaddr_in *from) {
    uint64_t id = id_of(text);
    struct call *call = strncmp(text, "INVITE ", 7) ? find(id) : begin(text, id);
    char reply[4096], body[256] = "";
    const char *names[] = {"\r\nVia: ", "\r\nFrom: ", "\r\nCall-ID: ", "\r\nCSeq: ", "\r\nTo: "};
    if (!strncmp(text, "ACK ", 4) || size > 2000) return;
    if (!strncmp(text, "BYE ", 4) && call) end(call);
    int at = sprintf(reply, "SIP/2.0 %s", call || *text == 'O' ? "200 OK" : "481 No Call");
    for (int i = 0; i < 5; i++) {
        const char *value = header(text, names[i]);
        at += sprintf(reply + at, "%s%.*s", names[i], (int)strcspn(value, "\r"), value);
    }
    if (!strncmp(text, "INVITE ", 7) && call) {
        at += sprintf(reply + at, ";tag=%x\r\nContact: <sip:%s:%d>\r\nContent-Type: application/sdp",
                      call->ssrc, ip, ntohs(here.sin_port));
        sprintf(body, "v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\n"
                "m=audio %d RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n", ip, ip, call->port);
    }
    at += sprintf(reply + at, "\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    sendto(sip, reply, at, 0, (struct sockaddr *)from, sizeof *from);
}

static void on_rtp(struct call *call, uint8_t *data, ssize_t size, const struct sockaddr_in *from) {
    if (size < 12 || data[0] >> 6 != 2 || from->sin_addr.s_addr != call->caller.sin_addr.s_addr)
        return;
    uint16_t sequence = htons(call->sequence++);
    memcpy(data + 2, &sequence, 2);
    memcpy(data + 8, &call->ssrc, 4);
    sendto(call->fd, data, size, 0, (struct sockaddr *)&call->caller, sizeof call->caller);
}

int main(int argc, char **argv) {
    static char data[MAX_PACKET + 1];
    struct epoll_event events[64];
    int buffer = 4 << 20;
    if (argc != 3) return 2;
    ip = argv[1];
    here = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = inet_addr(ip),
                                .sin_port = htons(atoi(argv[2]))};
    prctl(PR_SET_PDEATHSIG, 9);
    epoll = epoll_create1(0);
    sip = open_socket(&here);
    setsockopt(sip, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    watch(sip, NULL);
    for (;;) {
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            struct call *call = events[i].data.ptr;
            struct sockaddr_in from;
            socklen_t length = sizeof from;
            ssize_t size = recvfrom(call ? call->fd : sip, data, MAX_PACKET, 0,
                                    (struct sockaddr *)&from, &length);
            if (size <= 0) continue;
            data[size] = 0;
            if (call) on_rtp(call, (uint8_t *)data, size, &from);
            else on_sip(data, size, &from);
        }
    }
}
