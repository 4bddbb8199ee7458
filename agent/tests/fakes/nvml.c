/* A library with NVML's functions: two cards, the first of which can be cut into partitions.
 *
 * Beside the words of fake.h: `recovered N` (an Xid of that number is waiting, once), `burst` (the first card was idle
 * but for one sample of each ring), `quiet` (the rings have nothing new), `more N` (N processes more), `outdated` (the
 * driver is of another version from the next initialisation on).
 *
 * Built with OLD it has only what a library of some years ago had, and so does Iluvatar's.
 */
#include "fake.h"

typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct { int card, part; } device;

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10, LOST = 15, MISMATCH = 18, REFUSED = 25 };
#ifndef CARD_COUNT
#define CARD_COUNT 2
#endif
enum { CARDS = CARD_COUNT, PARTS = 7 };

static device cards[CARDS];
__attribute__((constructor)) static void number_cards(void) {
    for (int card = 0; card < CARDS; card++) cards[card] = (device){card, -1};
}
FAKE_MAYBE device parts[PARTS] = {{0, 0}, {0, 1}, {0, 2}, {0, 3}, {0, 4}, {0, 5}, {0, 6}};

/* Every function of a device begins so. */
#define BEGIN(d) \
    FAKE_ENTER(); \
    if (fake_is_lost((d)->card)) return LOST

static int sentinel(void) { return fake_has("sentinel"); }
static u32 value(u32 number) { return sentinel() ? 0xffffffffu : number; }
static int text(char *out, u32 length, const char *what) {
    if (strlen(what) + 1 > length) return TOO_SMALL;
    strcpy(out, what);
    return OK;
}

int nvmlInit_v2(void) {
    FAKE_ENTER();
    /* Libraries do print. */
    printf("a library that prints\n");
    fflush(stdout);
    return fake_has("outdated") ? MISMATCH : OK;
}
int nvmlShutdown(void) { FAKE_ENTER(); return OK; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "Some error"; }
int nvmlSystemGetDriverVersion(char *out, u32 length) { FAKE_ENTER(); return text(out, length, "570.86.15"); }
int nvmlDeviceGetCount_v2(u32 *out) { FAKE_ENTER(); *out = CARDS; return OK; }
int nvmlDeviceGetHandleByIndex_v2(u32 index, device **out) {
    FAKE_ENTER();
    if (index >= CARDS) return INVALID;
    if (fake_is_lost(index)) return LOST;
    *out = &cards[index];
    return OK;
}
int nvmlDeviceGetUUID(device *d, char *out, u32 length) {
    BEGIN(d);
    char uuid[64];
    if (d->part < 0) snprintf(uuid, sizeof uuid, "GPU-%08d", d->card);
    else snprintf(uuid, sizeof uuid, "MIG-%08d-%d", d->card, d->part);
    return text(out, length, uuid);
}
int nvmlDeviceGetName(device *d, char *out, u32 length) {
    BEGIN(d);
    return text(out, length, d->part < 0 ? "NVIDIA H100 80GB HBM3" : "NVIDIA H100 80GB HBM3 MIG 1g.10gb");
}
int nvmlDeviceGetSerial(device *d, char *out, u32 length) { BEGIN(d); return text(out, length, "1650422000000"); }
int nvmlDeviceGetVbiosVersion(device *d, char *out, u32 length) { BEGIN(d); return text(out, length, "96.00.74.00.01"); }

typedef struct { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; } pci_info;
int nvmlDeviceGetPciInfo_v3(device *d, pci_info *out) {
    BEGIN(d);
    memset(out, 0, sizeof *out);
    out->bus = d->card ? 0x65 : 0x17;
    return OK;
}
int nvmlDeviceGetMinorNumber(device *d, u32 *out) { BEGIN(d); *out = d->card; return OK; }

typedef struct { u32 gpu, memory; } utilization;
int nvmlDeviceGetUtilizationRates(device *d, utilization *out) {
    BEGIN(d);
    out->gpu = value(40);
    out->memory = value(30);
    return OK;
}
typedef struct { u64 total, free, used; } memory_v1;
int nvmlDeviceGetMemoryInfo(device *d, memory_v1 *out) {
    BEGIN(d);
    *out = sentinel() ? (memory_v1){~0ull, ~0ull, ~0ull} : (memory_v1){80ull << 30, 60ull << 30, 20ull << 30};
    return OK;
}
int nvmlDeviceGetPowerUsage(device *d, u32 *out) { BEGIN(d); *out = value(71250); return OK; }
int nvmlDeviceGetEnforcedPowerLimit(device *d, u32 *out) { BEGIN(d); *out = value(700000); return OK; }
int nvmlDeviceGetTemperature(device *d, u32 sensor, u32 *out) { BEGIN(d); if (sensor) return INVALID; *out = value(54); return OK; }
int nvmlDeviceGetClockInfo(device *d, u32 which, u32 *out) {
    BEGIN(d);
    static const u32 clocks[] = {1970, 1980, 2619, 1545};
    if (which > 3) return INVALID;
    *out = value(clocks[which]);
    return OK;
}
int nvmlDeviceGetMaxClockInfo(device *d, u32 which, u32 *out) { BEGIN(d); *out = value(which == 2 ? 2619 : 1980); return OK; }
int nvmlDeviceGetPerformanceState(device *d, u32 *out) { BEGIN(d); *out = sentinel() ? 32 : 0; return OK; }
int nvmlDeviceGetComputeMode(device *d, u32 *out) { BEGIN(d); *out = value(3); return OK; }
int nvmlDeviceGetCurrPcieLinkGeneration(device *d, u32 *out) { BEGIN(d); *out = value(5); return OK; }
int nvmlDeviceGetMaxPcieLinkGeneration(device *d, u32 *out) { BEGIN(d); *out = value(5); return OK; }
int nvmlDeviceGetCurrPcieLinkWidth(device *d, u32 *out) { BEGIN(d); *out = value(16); return OK; }
int nvmlDeviceGetMaxPcieLinkWidth(device *d, u32 *out) { BEGIN(d); *out = value(16); return OK; }
int nvmlDeviceGetPcieReplayCounter(device *d, u32 *out) { BEGIN(d); *out = value(2); return OK; }
int nvmlDeviceGetTotalEccErrors(device *d, u32 error, u32 counter, u64 *out) {
    BEGIN(d);
    *out = sentinel() ? ~0ull : 1 + 2 * counter + error;
    return OK;
}

typedef struct { u32 pid; u64 memory; } process_v1;
#ifdef OLD
int nvmlDeviceGetCurrentClocksThrottleReasons(device *d, u64 *out) { BEGIN(d); *out = 0x4; return OK; }
int nvmlDeviceGetComputeRunningProcesses(device *d, u32 *count, process_v1 *out) {
    BEGIN(d);
    u32 room = *count;
    *count = 1;
    if (room < 1) return TOO_SMALL;
    out[0] = (process_v1){4242, 1ull << 30};
    return OK;
}
#else
int nvmlDeviceGetCurrentClocksEventReasons(device *d, u64 *out) { BEGIN(d); *out = sentinel() ? ~0ull : 0x44; return OK; }
int nvmlDeviceGetTemperatureThreshold(device *d, u32 which, u32 *out) { BEGIN(d); *out = which ? 87 : 92; return OK; }
int nvmlDeviceGetNumGpuCores(device *d, u32 *out) { BEGIN(d); *out = 16896; return OK; }
static int engine(u32 load, u32 *out, u32 *period) { *out = value(load); *period = 200000; return OK; }
int nvmlDeviceGetEncoderUtilization(device *d, u32 *out, u32 *period) { BEGIN(d); return engine(5, out, period); }
int nvmlDeviceGetDecoderUtilization(device *d, u32 *out, u32 *period) { BEGIN(d); return engine(6, out, period); }
int nvmlDeviceGetJpgUtilization(device *d, u32 *out, u32 *period) { BEGIN(d); return engine(7, out, period); }
int nvmlDeviceGetOfaUtilization(device *d, u32 *out, u32 *period) { BEGIN(d); return engine(8, out, period); }
int nvmlDeviceGetFanSpeed(device *d, u32 *out) { BEGIN(d); return NOT_SUPPORTED; (void)out; }

typedef struct { u32 version; u64 total, reserved, free, used; } memory_v2;
#ifndef WITHOUT_MEMORY_V2
int nvmlDeviceGetMemoryInfo_v2(device *d, memory_v2 *out) {
    BEGIN(d);
    if (out->version != (sizeof *out | 2u << 24)) return REFUSED;
    if (d->part >= fake_number("partitions", 0)) return NOT_FOUND;
    u64 unit = d->part < 0 ? 1ull << 30 : 1ull << 27;
    *out = sentinel() ? (memory_v2){out->version, ~0ull, ~0ull, ~0ull, ~0ull}
                      : (memory_v2){out->version, 80 * unit, 1 * unit, 59 * unit, 20 * unit};
    return OK;
}
#endif

/* A hundred samples a second in each ring, of the last two seconds; since the last call, where that is less. */
typedef struct { u64 at, value; } sample;
int nvmlDeviceGetSamples(device *d, u32 kind, u64 last, u32 *type, u32 *count, sample *out) {
    BEGIN(d);
    if (fake_number("partitions", 0) > 0 && d->card == 0) return NOT_SUPPORTED;
    if (kind > 1) return NOT_SUPPORTED;
    if (fake_has("quiet")) return NOT_FOUND;
    u64 newest = fake_now_micros() / 10000 * 10000;
    u32 room = *count, written = 0;
    int burst = fake_has("burst") && d->card == 0;
    *type = 1;
    for (u64 at = newest - 1990000; at <= newest; at += 10000) {
        if (at <= last) continue;
        if (written == room) return TOO_SMALL;
        u64 number = at / 10000;
        u32 load = burst ? (at == newest ? 100 : 0) : 25 + 50 * (number % 2);
        u32 power = burst ? (at == newest ? 690000 : 90000) : 60000 + 20000 * (number % 2);
        if (sentinel()) load = power = 0xffffffffu;
        out[written++] = (sample){at, kind ? load : power};
    }
    *count = written;
    return written ? OK : NOT_FOUND;
}

typedef struct { u32 field, scope; int64_t at, latency; u32 type, ret; u64 value; } field;
#ifndef WITHOUT_FIELDS
int nvmlDeviceGetFieldValues(device *d, int count, field *fields) {
    BEGIN(d);
    for (int n = 0; n < count; n++) {
        field *f = &fields[n];
        f->ret = OK;
        f->type = 3;
        switch (f->field) {
        case 82: f->type = 1; f->value = value(61); break;
        case 83: f->value = sentinel() ? ~0ull : 123456789; break;
        case 3: case 4: case 5: case 6: f->value = f->field; break;
        case 142: case 143: f->type = 1; f->value = f->field - 140; break;
        case 144: case 145: f->type = 1; f->value = f->field - 144; break;
        case 94: f->type = 1; f->value = value(9); break;
        case 197: f->value = 1970000; break;
        case 198: f->value = 1980000; break;
        case 74: f->value = 1500000000; break;
        case 75: f->value = 1; break;
        case 251: f->value = 2500000000; break;
        case 252: f->value = 3500000000; break;
        case 253: f->value = 0; break;
        case 76: f->ret = NOT_SUPPORTED; break;
        case 230: f->type = 1; f->value = 1; break;
        /* Four links, each asked by its number. */
        case 138: case 139:
            if (f->scope < 4) f->value = 1000 * (f->field - 137) + f->scope;
            else f->ret = INVALID;
            break;
        case 38: f->value = 3; break;
        default: f->ret = NOT_SUPPORTED;
        }
    }
    return OK;
}
#endif

typedef struct { u32 version; u64 parity, secded, corrected, rest[8]; u32 exceeded; } sram;
int nvmlDeviceGetSramEccErrorStatus(device *d, sram *out) {
    BEGIN(d);
    if (out->version != (sizeof *out | 1u << 24)) return REFUSED;
    out->parity = 1; out->secded = 2; out->corrected = 7;
    return OK;
}
int nvmlDeviceGetMemoryErrorCounter(device *d, u32 error, u32 counter, u32 place, u64 *out) {
    BEGIN(d);
    *out = 100 * place + 10 * counter + error;
    return OK;
}
int nvmlDeviceGetNvLinkState(device *d, u32 link, u32 *out) { BEGIN(d); *out = link != 3; return link < 4 ? OK : INVALID; }
typedef struct { u32 version; unsigned char cluster[16]; u32 status, clique; unsigned char state; u32 health; } fabric;
int nvmlDeviceGetGpuFabricInfoV(device *d, fabric *out) {
    BEGIN(d);
    if (out->version != (sizeof *out | 2u << 24)) return REFUSED;
    out->state = 3;
    return OK;
}

int nvmlDeviceGetMigMode(device *d, u32 *current, u32 *pending) {
    BEGIN(d);
    *current = *pending = d->card == 0 && fake_number("partitions", 0) > 0;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(device *d, u32 *out) { BEGIN(d); *out = PARTS; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(device *d, u32 place, device **out) {
    BEGIN(d);
    if (d->card || (long)place >= fake_number("partitions", 0) || place >= PARTS) return NOT_FOUND;
    *out = &parts[place];
    return OK;
}
int nvmlDeviceGetGpuInstanceId(device *d, u32 *out) { BEGIN(d); *out = 7 + d->part; return OK; }

typedef struct { u32 pid; u64 memory; u32 gi, ci; } process_v2;
int nvmlDeviceGetComputeRunningProcesses_v3(device *d, u32 *count, process_v2 *out) {
    BEGIN(d);
    u32 room = *count, more = d->card ? 0 : (u32)fake_number("more", 0);
    *count = 2 + more;
    if (room < *count) return TOO_SMALL;
    out[0] = (process_v2){4242, 1ull << 30, ~0u, ~0u};
    out[1] = (process_v2){977, ~0ull, ~0u, ~0u};
    for (u32 n = 0; n < more; n++) out[2 + n] = (process_v2){10000 + n, 1, ~0u, ~0u};
    return OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(device *d, u32 *count, process_v2 *out) {
    BEGIN(d);
    *count = 2;
    out[0] = (process_v2){4242, 1ull << 30, ~0u, ~0u};
    out[1] = (process_v2){4243, 1ull << 20, ~0u, ~0u};
    return OK;
}
typedef struct { u32 pid; u64 at; u32 gpu, memory, encoder, decoder; } process_sample;
int nvmlDeviceGetProcessUtilization(device *d, process_sample *out, u32 *count, u64 last) {
    BEGIN(d);
    u64 now = fake_now_micros();
    *count = 2;
    out[0] = (process_sample){4242, now, 50, 20, 0, 0};
    out[1] = (process_sample){4242, now + 1, 70, 20, 0, 0};
    (void)last;
    return OK;
}

static int event_set;
int nvmlEventSetCreate(void **out) { FAKE_ENTER(); *out = &event_set; return OK; }
int nvmlEventSetFree(void *set) { FAKE_ENTER(); (void)set; return OK; }
int nvmlDeviceGetSupportedEventTypes(device *d, u64 *out) { BEGIN(d); *out = 0xff; return OK; }
int nvmlDeviceRegisterEvents(device *d, u64 types, void *set) { BEGIN(d); (void)set; return types & 8 ? OK : INVALID; }
typedef struct { device *of; u64 type, data; u32 gi, ci; } event;
int nvmlEventSetWait_v2(void *set, event *out, u32 timeout) {
    FAKE_ENTER();
    static long told;
    long xid = fake_number("recovered", 0);
    if (timeout || set != &event_set || !xid || xid == told) return TIMEOUT;
    told = xid;
    *out = (event){&cards[1], 8, xid, ~0u, ~0u};
    return OK;
}

/* GPM: a snapshot is the number of those before. */
typedef struct { u32 version, supported; } gpm_support;
int nvmlGpmQueryDeviceSupport(device *d, gpm_support *out) { BEGIN(d); out->supported = 1; return out->version == 1 ? OK : REFUSED; }
typedef struct { long taken, instance; } snapshot;
int nvmlGpmSampleAlloc(snapshot **out) { FAKE_ENTER(); *out = calloc(1, sizeof **out); return OK; }
int nvmlGpmSampleFree(snapshot *of) { FAKE_ENTER(); free(of); return OK; }
static long snapshots;
int nvmlGpmSampleGet(device *d, snapshot *out) { BEGIN(d); *out = (snapshot){++snapshots, -1}; return OK; }
int nvmlGpmMigSampleGet(device *d, u32 instance, snapshot *out) { BEGIN(d); *out = (snapshot){++snapshots, instance}; return OK; }
typedef struct { u32 metric, ret; double value; char *names[3]; } metric;
typedef struct { u32 version, count; snapshot *before, *after; metric metrics[210]; } metrics;
int nvmlGpmMetricsGet(metrics *get) {
    FAKE_ENTER();
    if (get->version != 1 || !get->before->taken || get->before->taken >= get->after->taken) return INVALID;
    if (get->before->instance != get->after->instance) return INVALID;
    for (u32 n = 0; n < get->count; n++) {
        metric *m = &get->metrics[n];
        m->ret = m->metric == 11 ? NOT_SUPPORTED : OK;
        m->value = sentinel() ? 1.0 / 0.0 : m->metric + (get->after->instance > 0 ? 50.0 : 0.0);
    }
    return OK;
}
#endif
