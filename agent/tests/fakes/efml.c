/* A library with EFML's functions: two cards, the first of which can be cut into slices.
 *
 * Built with FIRST it has the first interface only, with BOTH both of them, and the first must then not be used; else the
 * second only. With OLD the second interface is in an older form.
 *
 * Beside the words of fake.h: `faulty` (the first card should be sent back), `outdated` (the driver is of another version
 * from the next initialisation on).
 */
#include "fake.h"
#include <signal.h>
#include <stdbool.h>

typedef unsigned int u32;
typedef unsigned long long u64;

enum { CARDS = 2 };

static int sentinel(void) { return fake_has("sentinel"); }
static u32 value(u32 number) { return sentinel() ? 0xffffffffu : number; }
FAKE_MAYBE float real(float number) { return sentinel() ? -1.0f : number; }

#if defined(FIRST) || defined(BOTH)
enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, INCOMPATIBLE = 11, FAIL = 254 };
static int first_initialized;

/* Every function of a card begins so. */
#define BEGIN(d) \
    FAKE_ENTER(); \
    if (!first_initialized || d >= CARDS) return INVALID; \
    if (fake_is_lost(d)) return FAIL

int EfmlInit(bool without_driver) {
    FAKE_ENTER();
#ifdef BOTH
    abort();
#endif
    if (fake_has("outdated")) return INCOMPATIBLE;
    /* The library's own signal: it ends a process that does not ignore it. */
    raise(SIGUSR1);
    first_initialized = !without_driver;
    return OK;
}
void EfmlShutdown(void) { FAKE_ENTER(); first_initialized = 0; }
int EfmlErrorString(u32 code, char *out) { strcpy(out, code == FAIL ? "operate fail" : "some error"); return OK; }
int EfmlGetDriverVer(char *out) { FAKE_ENTER(); strcpy(out, "1.2.3"); return OK; }
int EfmlGetDevCount(u32 *out) { FAKE_ENTER(); *out = CARDS; return OK; }
int EfmlGetDevUuid(u32 d, char *out) { BEGIN(d); sprintf(out, "T2000000000%u", d); return OK; }
int EfmlGetDevName(u32 d, char *out) { BEGIN(d); strcpy(out, "T20"); return OK; }
int EfmlGetDevSn(u32 d, char *out) { BEGIN(d); strcpy(out, "EF0123456789"); return OK; }
int EfmlGetFwVersion(u32 d, char *out) { BEGIN(d); strcpy(out, "31.2"); return OK; }
typedef struct { char name[128]; u32 vendor, device, domain, bus, dev, func, logic; } info;
int EfmlGetDevInfo(u32 d, info *out) { BEGIN(d); *out = (info){"T20", 0x1e36, 1, 0, d ? 0x3b : 0x1a, 0, 0, d}; return OK; }
int EfmlGetHwArch(u32 d, u32 *out) { BEGIN(d); *out = d ? 2 : 0; return OK; }
int EfmlGetDevDtuUsageAsync(u32 d, float *out) { BEGIN(d); *out = real(40); return OK; }
int EfmlGetDevSipUsage(u32 d, float *out) { BEGIN(d); *out = real(25); return OK; }
typedef struct { u32 encoder, decoder; } video;
int EfmlGetVpuUsage(u32 d, video *out) { BEGIN(d); *out = (video){value(5), value(6)}; return OK; }
/* All in bytes, used in MiB. */
typedef struct { u64 total; u32 used; } memory_info;
int EfmlGetDevMem(u32 d, memory_info *out) { BEGIN(d); *out = (memory_info){sentinel() ? ~0ull : 32ull << 30, value(20 << 10)}; return OK; }
typedef struct { float limit, power; } power_info;
int EfmlGetDevPwr(u32 d, power_info *out) { BEGIN(d); *out = (power_info){300, real(71.25)}; return OK; }
typedef struct { float chip, memory, other; } temperatures;
int EfmlGetDevTemp(u32 d, temperatures *out) { BEGIN(d); *out = sentinel() ? (temperatures){-1000, -1000, 0} : (temperatures){54, 61, 62}; return OK; }
int EfmlGetDevTempV2(u32 d, temperatures *out) { BEGIN(d); *out = (temperatures){74, 81, 50}; return OK; }
typedef struct { u32 memory, core; } clocks;
int EfmlGetDevClk(u32 d, clocks *out) { BEGIN(d); *out = (clocks){value(1600), value(1300)}; return OK; }
int EfmlGetMaxFreq(u32 d, u32 *out) { BEGIN(d); *out = 1400; return OK; }
typedef struct { u32 generation, generation_max, width, width_max; } pcie;
int EfmlGetPcieLinkInfo(u32 d, pcie *out) { BEGIN(d); *out = (pcie){3, 4, 8, 16}; return OK; }
typedef struct { bool enabled, pending, blacklist; u32 corrected, uncorrected; } ecc;
int EfmlGetDevEccStatus(u32 d, ecc *out) { BEGIN(d); *out = (ecc){true, false, true, 3, 4}; return OK; }
typedef struct { bool supported, hint; u32 uncorrected; } rma;
int EfmlGetDevRmaDetails(u32 d, rma *out) { BEGIN(d); *out = (rma){true, d == 0 && fake_has("faulty"), 6}; return OK; }
int EfmlGetDevHealth(u32 d, bool *out) { BEGIN(d); *out = true; return OK; }
#ifndef WITHOUT_LINKS
int EfmlGetEslPortNum(u32 d, u32 *out) { BEGIN(d); *out = 4; return OK; }
typedef struct { u32 connected; char rest[112]; } port_info;
int EfmlGetEslPortInfo(u32 d, u32 port, port_info *out) { BEGIN(d); memset(out, 0, sizeof *out); out->connected = port != 3; return OK; }
typedef struct { float tx, rx; u64 tx_nak, rx_nak; } throughput;
int EfmlGetEslThroughput(u32 d, u32 port, throughput *out) { BEGIN(d); *out = (throughput){real(10), real(20), 0, 0}; return port < 4 ? OK : INVALID; }
#endif
/* Their numbers go up from 5. */
static u32 slices(u32 d) { return d ? 0 : fake_number("partitions", 0); }
int EfmlGetVdevList(u32 d, u32 *out, u32 *count) {
    BEGIN(d);
    *count = slices(d);
    for (u32 n = 0; n < *count; n++) out[n] = 5 + n;
    return OK;
}
int EfmlGetVdevMem(u32 d, u32 slice, memory_info *out) { BEGIN(d); *out = (memory_info){8ull << 30, 2 << 10}; return slice - 5 < slices(d) ? OK : INVALID; }
int EfmlGetVdevDtuUsage(u32 d, u32 slice, float *out) { BEGIN(d); *out = 12.5f; return slice - 5 < slices(d) ? OK : INVALID; }
typedef struct { u32 pid; u64 device, system; } process;
int EfmlGetProcessInfo(u32 d, u32 *count, process *out) {
    BEGIN(d);
    *count = 2;
    out[0] = (process){4242, 100, 200};
    out[1] = (process){977, 100, 200};
    return OK;
}
#undef BEGIN
#endif

#ifndef FIRST
enum { OK_2 = 0, INVALID_2 = 2, NOT_SUPPORTED_2 = 3, TOO_SMALL_2 = 7, LOST_2 = 15, MISMATCH_2 = 18 };
typedef struct { u32 index; } device;
static device cards[CARDS] = {{0}, {1}};
#define BEGIN(d) \
    FAKE_ENTER(); \
    if (fake_is_lost((d)->index)) return LOST_2
static int text(char *out, u32 length, const char *what) {
    if (strlen(what) + 1 > length) return TOO_SMALL_2;
    strcpy(out, what);
    return OK_2;
}

#ifdef OLD
#define NEW(name) name
#else
#define NEW(name) name##_v2
#endif
int NEW(efmlInit)(void) { FAKE_ENTER(); return fake_has("outdated") ? MISMATCH_2 : OK_2; }
int efmlShutdown(void) { FAKE_ENTER(); return OK_2; }
const char *efmlErrorString(u32 code) { return code == LOST_2 ? "GCU is lost" : "some error"; }
int NEW(efmlDeviceGetCount)(u32 *out) { FAKE_ENTER(); *out = CARDS; return OK_2; }
int NEW(efmlDeviceGetHandleByIndex)(u32 index, device **out) {
    FAKE_ENTER();
    if (index >= CARDS) return INVALID_2;
    if (fake_is_lost(index)) return LOST_2;
    *out = &cards[index];
    return OK_2;
}
int efmlDeviceGetUUID(device *d, char *out, u32 length) { BEGIN(d); return text(out, length, d->index ? "GCU-S60-1" : "GCU-S60-0"); }
int efmlDeviceGetName(device *d, char *out, u32 length) { BEGIN(d); return text(out, length, "Enflame S60"); }
#ifdef OLD
typedef struct { char legacy[16]; u32 domain, bus, device, id, subsystem; char address[32]; } pci;
int efmlDeviceGetPciInfo(device *d, pci *out)
#else
typedef struct { u32 domain, bus, device, function, id, subsystem; char address[32]; } pci;
int efmlDeviceGetPciInfo_v3(device *d, pci *out)
#endif
{
    BEGIN(d);
    memset(out, 0, sizeof *out);
    out->bus = d->index ? 0x3b : 0x1a;
    strcpy(out->address, d->index ? "0000:3B:00.0" : "0000:1A:00.0");
    return OK_2;
}
typedef struct { u32 gcu, memory; } load;
int efmlDeviceGetUtilizationRates(device *d, load *out) { BEGIN(d); *out = (load){value(40), value(30)}; return OK_2; }
typedef struct { u64 total, free, used; } memory_2;
int efmlDeviceGetMemoryInfo(device *d, memory_2 *out) {
    BEGIN(d);
    *out = sentinel() ? (memory_2){~0ull, ~0ull, ~0ull} : (memory_2){48ull << 30, 28ull << 30, 20ull << 30};
    return OK_2;
}
int efmlDeviceGetPowerUsage(device *d, u32 *out) { BEGIN(d); *out = value(71250); return OK_2; }
int efmlDeviceGetEnforcedPowerLimit(device *d, u32 *out) { BEGIN(d); *out = 300000; return OK_2; }
int efmlDeviceGetTemperature(device *d, u32 sensor, int *out) { BEGIN(d); *out = sentinel() ? -1000 : 54; return sensor ? INVALID_2 : OK_2; }
int efmlDeviceGetTemperatureThreshold(device *d, u32 which, u32 *out) { BEGIN(d); *out = which ? 95 : 105; return OK_2; }
int efmlDeviceGetClockInfo(device *d, u32 which, u32 *out) {
    BEGIN(d);
    static const u32 clocks_2[] = {1, 1300, 1600, 900};
    *out = value(which > 3 ? 0 : clocks_2[which]);
    return which > 3 ? INVALID_2 : OK_2;
}
int efmlDeviceGetMaxClockInfo(device *d, u32 which, u32 *out) { BEGIN(d); *out = which == 2 ? 1700 : 1400; return OK_2; }
int efmlDeviceGetCurrPcieLinkGeneration(device *d, u32 *out) { BEGIN(d); *out = 4; return OK_2; }
int efmlDeviceGetMaxPcieLinkGeneration(device *d, u32 *out) { BEGIN(d); *out = 5; return OK_2; }
int efmlDeviceGetCurrPcieLinkWidth(device *d, u32 *out) { BEGIN(d); *out = 8; return OK_2; }
int efmlDeviceGetMaxPcieLinkWidth(device *d, u32 *out) { BEGIN(d); *out = 16; return OK_2; }
int efmlDeviceGetFanSpeed(device *d, u32 *out) { BEGIN(d); *out = 0; return NOT_SUPPORTED_2; }
#ifdef OLD
typedef struct { u32 pid; u64 memory; } process_2;
int efmlDeviceGetComputeRunningProcesses(device *d, u32 *count, process_2 *out)
#else
typedef struct { u32 pid; u64 memory; u32 gi, ci; } process_2;
int efmlDeviceGetComputeRunningProcesses_v3(device *d, u32 *count, process_2 *out)
#endif
{
    BEGIN(d);
    u32 room = *count;
    *count = 2;
    if (room < 2) return TOO_SMALL_2;
    memset(out, 0xff, 2 * sizeof *out);
    out[0].pid = 4242; out[0].memory = 1ull << 30;
    out[1].pid = 977; out[1].memory = ~0ull;
    return OK_2;
}
#ifndef OLD
#ifndef WITHOUT_OCCUPANCY
typedef struct { u32 cores, vector, matrix, special, memory; } occupancy;
int efmlDeviceGetOccupancy(device *d, occupancy *out) { BEGIN(d); *out = (occupancy){value(25), value(15), value(35), 0, 0}; return OK_2; }
#endif
int efmlDeviceGetEncoderUtilization(device *d, u32 *out, u32 *period) { BEGIN(d); *out = value(5); *period = 1; return OK_2; }
int efmlDeviceGetDecoderUtilization(device *d, u32 *out, u32 *period) { BEGIN(d); *out = value(6); *period = 1; return OK_2; }
int efmlDeviceGetGcuLareState(device *d, u32 port, u32 *out) { BEGIN(d); *out = port != 3; return port < 4 ? OK_2 : INVALID_2; }
typedef struct { u32 pid; u64 at; u32 cores, memory, encoder, decoder; } sample;
int efmlDeviceGetProcessUtilization(device *d, sample *out, u32 *count, u64 last) {
    BEGIN(d);
    (void)last;
    u64 now = fake_now_micros();
    *count = 2;
    out[0] = (sample){4242, now, 50, 20, 0, 0};
    out[1] = (sample){4242, now + 1, 70, 20, 0, 0};
    return OK_2;
}
#endif
#endif
