/*
 * A device at level 1: it numbers its updates with `seq`, keeps each until its `ack`, and after reconnecting sends what
 * is unacked first. From level 2 it takes the `boot`, so that readers can tell a repeat from a new update.
 *
 *   apt-get install libwebsockets-dev
 *   cc -O2 -Wall -o level1 level1.c $(pkg-config --cflags --libs libwebsockets)
 *   ./level1                                        beside `make run`, which needs no token on this machine
 *   ./level1 wss://gateway.example TOKEN COUNT      another gateway; TOKEN may be "", COUNT 0 means for ever
 */
#include <libwebsockets.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { KEPT = 256, WINDOW = 64, EVERY_MS = 200 };

struct update {
    uint64_t seq;
    double value;
};

static struct {
    struct lws_context *context;
    struct lws *wsi;                /* NULL while there is no connection */
    lws_sorted_usec_list_t connect; /* the next attempt */
    lws_sorted_usec_list_t measure; /* the next measurement */
    struct update kept[KEPT];       /* unacked, oldest first */
    size_t kept_count;
    uint64_t next_seq;
    uint64_t sent_up_to;            /* on this connection */
    uint64_t count;
    int retries;
    int welcomed;
    int finished;
    char boot[17];
    char address[256], path[512], token[4096];
    int port, tls;
    char in[4096];                  /* one message from the gateway, as its pieces come */
    size_t in_len;
} device = { .next_seq = 1 };

static void start_connecting(lws_sorted_usec_list_t *sul);

/* Takes everything up to and including `seq` out of what is kept. */
static void forget_up_to(uint64_t seq)
{
    size_t gone = 0;
    while (gone < device.kept_count && device.kept[gone].seq <= seq)
        gone++;
    device.kept_count -= gone;
    memmove(device.kept, device.kept + gone, device.kept_count * sizeof device.kept[0]);
    if (device.count && device.next_seq > device.count && device.kept_count == 0) {
        device.finished = 1;
        lws_cancel_service(device.context);
    }
}

static void forget_one(uint64_t seq)
{
    for (size_t i = 0; i < device.kept_count; i++) {
        if (device.kept[i].seq != seq)
            continue;
        memmove(device.kept + i, device.kept + i + 1, (device.kept_count - i - 1) * sizeof device.kept[0]);
        device.kept_count--;
        forget_up_to(0);
        return;
    }
}

/* What of a message matters at this level: all else is ignored. */
struct incoming {
    char type[32];
    uint64_t seq;
    int has_seq;
};

static const char *const wanted[] = { "type", "seq" };

static signed char on_json(struct lejp_ctx *json, char reason)
{
    struct incoming *incoming = json->user;
    if (reason == LEJPCB_VAL_STR_END && json->path_match == 1)
        lws_strncpy(incoming->type, json->buf, sizeof incoming->type);
    if (reason == LEJPCB_VAL_NUM_INT && json->path_match == 2) {
        incoming->seq = strtoull(json->buf, NULL, 10);
        incoming->has_seq = 1;
    }
    return 0;
}

static void on_message(const char *text, size_t length)
{
    struct incoming incoming = { .type = "" };
    struct lejp_ctx json;

    lejp_construct(&json, on_json, &incoming, wanted, LWS_ARRAY_SIZE(wanted));
    lejp_parse(&json, (const unsigned char *)text, (int)length);
    lejp_destruct(&json);

    if (!strcmp(incoming.type, "welcome"))
        device.welcomed = 1;
    if (!incoming.has_seq)
        return;
    if (!strcmp(incoming.type, "ack")) {
        printf("acked %" PRIu64 "\n", incoming.seq);
        forget_up_to(incoming.seq);
    }
    if (!strcmp(incoming.type, "refused")) {
        /* Settled too: it will never be taken, so it is not sent again. */
        printf("refused %.*s\n", (int)length, text);
        forget_one(incoming.seq);
    }
    fflush(stdout);
}

/* Sends the lowest update that was not sent on this connection; asks to be called again where there are more. */
static int send_next(struct lws *wsi)
{
    char buffer[LWS_PRE + 256];
    size_t in_flight = 0;

    while (in_flight < device.kept_count && device.kept[in_flight].seq <= device.sent_up_to)
        in_flight++;
    if (!device.welcomed || in_flight == device.kept_count || in_flight >= WINDOW)
        return 0;

    struct update *next = &device.kept[in_flight];
    int length = snprintf(buffer + LWS_PRE, sizeof buffer - LWS_PRE,
                          "{\"type\":\"update\",\"name\":\"temperature\",\"value\":%.2f,\"seq\":%" PRIu64 "}",
                          next->value, next->seq);
    if (lws_write(wsi, (unsigned char *)buffer + LWS_PRE, (size_t)length, LWS_WRITE_TEXT) < length)
        return -1;
    device.sent_up_to = next->seq;
    lws_callback_on_writable(wsi);
    return 0;
}

static void measure(lws_sorted_usec_list_t *sul)
{
    (void)sul;
    if (!device.count || device.next_seq <= device.count) {
        if (device.kept_count == KEPT)
            forget_one(device.kept[0].seq); /* the oldest goes: gaps in `seq` are fine */
        struct update *update = &device.kept[device.kept_count++];
        update->seq = device.next_seq++;
        update->value = 20 + (double)(rand() % 500) / 100;
        if (device.wsi)
            lws_callback_on_writable(device.wsi);
    }
    lws_sul_schedule(device.context, 0, &device.measure, measure, EVERY_MS * LWS_US_PER_MS);
}

/* Waits random(0, min(60 s, 1 s * 2^n)), then connects. */
static void connect_later(void)
{
    double limit = device.retries < 6 ? (double)(1 << device.retries) : 60.0;
    lws_usec_t wait = (lws_usec_t)(limit * 1e6 * rand() / RAND_MAX);

    device.wsi = NULL;
    device.welcomed = 0;
    device.retries++;
    printf("connecting again in %.1f s\n", (double)wait / 1e6);
    fflush(stdout);
    lws_sul_schedule(device.context, 0, &device.connect, start_connecting, wait ? wait : 1);
}

static int add_token(struct lws *wsi, unsigned char **at, size_t room)
{
    char value[sizeof device.token + 8];
    if (!device.token[0])
        return 0;
    int length = snprintf(value, sizeof value, "Bearer %s", device.token);
    return lws_add_http_header_by_token(wsi, WSI_TOKEN_HTTP_AUTHORIZATION, (unsigned char *)value, length, at,
                                        *at + room);
}

static int callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    (void)user;
    switch (reason) {
    case LWS_CALLBACK_CLIENT_APPEND_HANDSHAKE_HEADER:
        return add_token(wsi, in, len) ? -1 : 0;
    case LWS_CALLBACK_CLIENT_ESTABLISHED:
        printf("connected, boot %s\n", device.boot);
        fflush(stdout);
        device.wsi = wsi;
        device.retries = 0;
        device.sent_up_to = 0;
        device.in_len = 0;
        return 0;
    case LWS_CALLBACK_CLIENT_RECEIVE:
        if (device.in_len + len > sizeof device.in)
            return -1;
        memcpy(device.in + device.in_len, in, len);
        device.in_len += len;
        if (lws_is_final_fragment(wsi) && !lws_remaining_packet_payload(wsi)) {
            on_message(device.in, device.in_len);
            device.in_len = 0;
        }
        lws_callback_on_writable(wsi);
        return 0;
    case LWS_CALLBACK_CLIENT_WRITEABLE:
        return send_next(wsi);
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        printf("no connection: %s\n", in ? (const char *)in : "unknown");
        if (!device.finished)
            connect_later();
        return 0;
    case LWS_CALLBACK_CLIENT_CLOSED:
        if (!device.finished)
            connect_later();
        return 0;
    default:
        return 0;
    }
}

static const struct lws_protocols protocols[] = {
    { .name = "tidegate.v1.json", .callback = callback, .rx_buffer_size = 1024 },
    { .name = NULL },
};

static void start_connecting(lws_sorted_usec_list_t *sul)
{
    (void)sul;
    struct lws_client_connect_info info = {
        .context = device.context,
        .address = device.address,
        .port = device.port,
        .path = device.path,
        .host = device.address,
        .origin = device.address,
        .ssl_connection = device.tls ? LCCSCF_USE_SSL : 0,
        .protocol = protocols[0].name,
    };
    /* A failure is reported to the callback too, which schedules the next attempt. */
    lws_client_connect_via_info(&info);
}

static int read_arguments(int argc, char **argv)
{
    static char url[1024];
    const char *scheme, *address, *path;

    lws_strncpy(url, argc > 1 ? argv[1] : "ws://localhost:8080", sizeof url);
    if (lws_parse_uri(url, &scheme, &address, &device.port, &path))
        return -1;
    device.tls = !strcmp(scheme, "wss");
    lws_strncpy(device.address, address, sizeof device.address);
    lws_strncpy(device.token, argc > 2 ? argv[2] : "", sizeof device.token);
    device.count = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;

    unsigned char bytes[8];
    if (lws_get_random(device.context, bytes, sizeof bytes) != sizeof bytes)
        return -1;
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(device.boot + 2 * i, 3, "%02x", bytes[i]);
    srand((unsigned)time(NULL) ^ bytes[0]);
    snprintf(device.path, sizeof device.path, "/%s?boot=%s", path + (path[0] == '/'), device.boot);
    return 0;
}

int main(int argc, char **argv)
{
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN,
        .protocols = protocols,
        .options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT,
    };

    lws_set_log_level(LLL_ERR, NULL);
    device.context = lws_create_context(&info);
    if (!device.context || read_arguments(argc, argv)) {
        fprintf(stderr, "usage: %s [ws://HOST:PORT[/PATH] [TOKEN [COUNT]]]\n", argv[0]);
        return 2;
    }
    start_connecting(NULL);
    measure(NULL);
    while (!device.finished && lws_service(device.context, 0) >= 0)
        ;
    lws_context_destroy(device.context);
    if (device.finished)
        puts("done: all acked");
    return device.finished ? 0 : 1;
}
