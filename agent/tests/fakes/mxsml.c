/* A library with MXSML's functions: two cards, the first of which can be cut into sGPUs.
 *
 * Beside the words of fake.h: `dies N` (cards of N chips), `slices N` (a physical function with N virtual ones besides),
 * `fault N` (the first card is not available, with this code), `slow` (traffic over PCIe takes 20 ms), `more N` (N
 * processes more).
 *
 * Built with OLD it has only what a library of some years ago had.
 */
#include "fake.h"

typedef unsigned int u32;
typedef unsigned long long u64;

enum { OK = 0, NO_DEVICE = 2, NOT_SUPPORTED = 3, INVALID_DEVICE = 6, INVALID_INPUT = 9, TOO_SMALL = 10 };
enum { CARDS = 2, SLICE = 2, PHYSICAL = 100 };

static int sentinel(void) { return fake_has("sentinel"); }
FAKE_MAYBE u32 dies(void) { return fake_number("dies", 1); }
static u32 slices(void) { return fake_number("slices", 0); }
static int known(u32 device) {
    if (fake_is_lost(device)) return INVALID_DEVICE;
    return device < CARDS + slices() || (device == PHYSICAL && slices()) ? OK : INVALID_DEVICE;
}

/* Every function of a card begins so. */
#define BEGIN(device) \
    FAKE_ENTER(); \
    if (known(device)) return known(device)

static int text(char *out, u32 *size, const char *what) {
    if (strlen(what) + 1 > *size) return TOO_SMALL;
    strcpy(out, what);
    *size = strlen(what) + 1;
    return OK;
}

int mxSmlInit(void) { FAKE_ENTER(); return OK; }
const char *mxSmlGetErrorString(u32 code) { return code == INVALID_DEVICE ? "Invalid device id" : "Some error"; }
u32 mxSmlGetDeviceCount(void) { FAKE_ENTER(); return CARDS + slices(); }
u32 mxSmlGetPfDeviceCount(void) { FAKE_ENTER(); return slices() ? 1 : 0; }

typedef struct { u32 device, type; char bdf[32]; u32 gpu, node; char uuid[96]; u32 brand, mode; char name[32]; } info;
int mxSmlGetDeviceInfo(u32 device, info *out) {
    BEGIN(device);
    memset(out, 0, sizeof *out);
    snprintf(out->bdf, sizeof out->bdf, "0000:%s:00.%u", device == 0 ? "1A" : device == 1 ? "3B" : "5C",
             device < CARDS || device == PHYSICAL ? 0 : device - 1);
    snprintf(out->uuid, sizeof out->uuid, "GPU-0000000%u", device);
    strcpy(out->name, "MXC500");
    out->brand = 2;
    out->mode = device == PHYSICAL ? 1 : device >= SLICE ? 2 : 0;
    return OK;
}
typedef struct { int number, devices[128]; } virtual_devices;
int mxSmlGetVirtualDevicesByPhysicalId(u32 device, virtual_devices *out) {
    BEGIN(device);
    out->number = slices();
    for (int n = 0; n < out->number; n++) out->devices[n] = SLICE + n;
    return OK;
}
int mxSmlGetDeviceVersion(u32 device, u32 which, char *out, u32 *size) {
    BEGIN(device);
    return text(out, size, which ? "2.4.1" : "1.20.3.0");
}
int mxSmlGetBoardSerial(u32 device, char *out, u32 *size) { BEGIN(device); return text(out, size, "MX0123456789"); }
int mxSmlGetDeviceState(u32 device, int *out) { BEGIN(device); *out = 1; return OK; }

int mxSmlGetDeviceIpUsage(u32 device, u32 part, int *out) {
    BEGIN(device);
    static const int loads[] = {-1, 5, 6, -1, 40, 30};
    if (part > 5 || loads[part] < 0) return INVALID_INPUT;
    *out = sentinel() ? -1 : loads[part];
    return OK;
}
typedef struct { long visible_total, visible_used, total, used, system_total, system_used; } memory;
static memory of_memory(void) {
    return sentinel() ? (memory){-1, -1, -1, -1, -1, -1}
                      : (memory){1 << 20, 1 << 10, 64l << 20, 20l << 20, 1 << 20, 0};
}
int mxSmlGetMemoryInfo(u32 device, memory *out) { BEGIN(device); *out = of_memory(); return OK; }
typedef struct { u32 voltage, current, power; } supply;
int mxSmlGetBoardPowerInfo(u32 device, u32 *size, supply *out) {
    BEGIN(device);
    if (*size < 3) { *size = 3; return TOO_SMALL; }
    *size = 3;
    for (int n = 0; n < 3; n++) out[n] = (supply){12000, 2000, sentinel() ? ~0u : 23750};
    return OK;
}
int mxSmlGetTemperatureInfo(u32 device, u32 sensor, int *out) {
    BEGIN(device);
    if (sensor != 0 && sensor != 1 && sensor != 15) return INVALID_INPUT;
    *out = sentinel() ? -100000 : sensor == 0 ? 5425 : sensor == 1 ? 9500 : 6100;
    return OK;
}
int mxSmlGetClocks(u32 device, u32 which, u32 *size, u32 *out) {
    BEGIN(device);
    if (which != 3 && which != 6 && which != 11) return NOT_SUPPORTED;
    if (*size < 2) { *size = 2; return TOO_SMALL; }
    *size = 2;
    out[0] = out[1] = sentinel() ? ~0u : which == 3 ? 1800 : which == 6 ? 1000 : 1600;
    return OK;
}
typedef struct { float speed; u32 width; } link_info;
int mxSmlGetPcieInfo(u32 device, link_info *out) { BEGIN(device); *out = (link_info){16.0f, 8}; return OK; }

/* Number, name, number of cards, and 64 entries. */
typedef struct { char bdf[32]; u32 gpu; unsigned long memory; } entry_v1;
typedef struct { u32 pid; char name[64]; u32 cards; entry_v1 entries[64]; } process_v1;
int mxSmlGetSingleGpuProcess(u32 device, u32 *number, process_v1 *out) {
    BEGIN(device);
    if (*number < 1) return TOO_SMALL;
    *number = 1;
    out[0].pid = 4242;
    out[0].cards = 1;
    out[0].entries[0].memory = 1ul << 30;
    return OK;
}

#ifndef OLD
int mxSmlInitWithFlags(u32 flags) { FAKE_ENTER(); return flags == 1 ? OK : INVALID_INPUT; }
int mxSmlGetDeviceDieCount(u32 device, u32 *out) { BEGIN(device); *out = dies(); return OK; }
int mxSmlGetBoardPowerLimit(u32 device, u32 *out) { BEGIN(device); *out = 350000; return OK; }
int mxSmlGetPcieMaxLinkInfo(u32 device, link_info *out) { BEGIN(device); *out = (link_info){32.0f, 16}; return OK; }
int mxSmlGetDpmIpClockInfo(u32 device, u32 which, u32 *out, u32 *size) {
    BEGIN(device);
    if (which != 1) return INVALID_INPUT;
    if (*size < 3) { *size = 3; return TOO_SMALL; }
    *size = 3;
    out[0] = 800; out[1] = 1200; out[2] = 1700;
    return OK;
}
typedef struct { int rx, tx; } throughput;
int mxSmlGetPcieThroughput(u32 device, throughput *out) {
    BEGIN(device);
    if (fake_has("slow")) usleep(20000);
    *out = sentinel() ? (throughput){-1, -1} : (throughput){12, 34};
    return OK;
}
int mxSmlGetPcieErrorCounter(u32 device, u32 which, u64 *out) { BEGIN(device); *out = 9 + which; return OK; }
int mxSmlGetCurrentClocksThrottleReason(u32 device, u64 *out) { BEGIN(device); *out = sentinel() ? ~0ull : 0xc; return OK; }
typedef struct { int code; char reason[64]; } reason;
int mxSmlGetDeviceUnavailableReason(u32 device, reason *out) {
    BEGIN(device);
    out->code = device ? 0 : fake_number("fault", 0);
    strcpy(out->reason, out->code ? "hbm training failed" : "");
    return OK;
}
typedef struct { u32 sram_ce, sram_ue, dram_ce, dram_ue, retired; } ecc;
int mxSmlGetTotalEccErrors(u32 device, ecc *out) { BEGIN(device); *out = (ecc){1, 2, 3, 4, 5}; return OK; }

/* The same of each die. */
#define DIE_BEGIN(device, die) \
    BEGIN(device); \
    if (die >= dies()) return INVALID_INPUT
int mxSmlGetDieIpUsage(u32 device, u32 die, u32 part, int *out) {
    DIE_BEGIN(device, die);
    if (part != 4) return INVALID_INPUT;
    *out = 40 + 20 * die;
    return OK;
}
int mxSmlGetDieMemoryInfo(u32 device, u32 die, memory *out) { DIE_BEGIN(device, die); *out = of_memory(); return OK; }
int mxSmlGetDieTemperatureInfo(u32 device, u32 die, u32 sensor, int *out) {
    DIE_BEGIN(device, die);
    if (sensor) return INVALID_INPUT;
    *out = 5000 + 300 * die;
    return OK;
}
int mxSmlGetDieTotalEccErrors(u32 device, u32 die, ecc *out) { DIE_BEGIN(device, die); *out = (ecc){1, 2, 3, 4, 5}; return OK; }
int mxSmlGetDieHbmBandwidthUtilization(u32 device, u32 die, u32 *out) { DIE_BEGIN(device, die); *out = sentinel() ? ~0u : 25; return OK; }

#ifndef WITHOUT_LINKS
/* Seven ports, of which one is not used and one is down. */
int mxSmlGetMetaXLinkPortState(u32 device, u32 *out, u32 *size) {
    BEGIN(device);
    if (*size < 7) { *size = 7; return TOO_SMALL; }
    *size = 7;
    for (int n = 0; n < 7; n++) out[n] = n == 6 ? 5 : n == 5 ? 3 : 1;
    return OK;
}
typedef struct { long requests, responses; } traffic;
int mxSmlGetMetaXLinkTrafficStat(u32 device, u32 way, u32 *size, traffic *out) {
    BEGIN(device);
    *size = 7;
    for (int n = 0; n < 7; n++) out[n] = (traffic){sentinel() ? -1l : 1000l * (way + 1) + n, 7};
    return OK;
}
int mxSmlGetMetaXLinkErrorCounter(u32 device, u32 which, u32 *size, u64 *out) {
    BEGIN(device);
    *size = 7;
    for (int n = 0; n < 7; n++) out[n] = which + 1;
    return OK;
}
#endif
typedef struct { int requests, responses; } rate;
int mxSmlGetMetaXLinkBandwidth(u32 device, u32 way, u32 *size, rate *out) {
    BEGIN(device);
    *size = 7;
    for (int n = 0; n < 7; n++) out[n] = (rate){10 * (way + 1), 1};
    return OK;
}

typedef struct { u32 parent, id, vram, priority, compute, minor, queue; char uuid[96]; } sgpu;
static u32 sgpus(u32 device) { return device ? 0 : fake_number("partitions", 0); }
u32 mxSmlGetSgpuCount(u32 device) { FAKE_ENTER(); return sgpus(device); }
/* Their numbers go up from 1. */
static int is_sgpu(u32 device, u32 id) { return id >= 1 && id <= sgpus(device); }
int mxSmlGetSgpuInfo(u32 device, u32 id, sgpu *out) {
    BEGIN(device);
    if (!is_sgpu(device, id)) return NOT_SUPPORTED;
    *out = (sgpu){device, id, 16384, 1, 25, id, 0, {0}};
    snprintf(out->uuid, sizeof out->uuid, "GPU-00000000-%u", id);
    return OK;
}
typedef struct { long total, used, free; } sgpu_memory;
int mxSmlGetSgpuMemory(u32 device, u32 id, sgpu_memory *out) {
    BEGIN(device);
    if (!is_sgpu(device, id)) return NOT_SUPPORTED;
    *out = (sgpu_memory){16l << 30, 4l << 30, 12l << 30};
    return OK;
}
int mxSmlGetSgpuUsage(u32 device, u32 id, int *out) {
    BEGIN(device);
    if (!is_sgpu(device, id)) return NOT_SUPPORTED;
    *out = 1250;
    return OK;
}

typedef struct { char bdf[32]; u32 gpu; unsigned long memory; u32 die; int sgpu; } entry_v3;
typedef struct { u32 pid; char name[64]; u32 cards; entry_v3 entries[64]; } process_v3;
int mxSmlGetSingleGpuProcess_v3(u32 device, u32 *number, process_v3 *out) {
    BEGIN(device);
    u32 room = *number, more = device ? 0 : fake_number("more", 0);
    info here;
    mxSmlGetDeviceInfo(device, &here);
    *number = 2 + more < room ? 2 + more : room;
    for (u32 n = 0; n < *number; n++) {
        process_v3 *process = &out[n];
        memset(process, 0, sizeof *process);
        process->pid = n == 0 ? 4242 : n == 1 ? 977 : 10000 + n;
        strcpy(process->name, "python3");
        process->cards = n == 1 ? 2 : 1;
        strcpy(process->entries[0].bdf, n == 1 ? "0000:99:00.0" : here.bdf);
        process->entries[0].memory = 1ul << 30;
        process->entries[0].sgpu = n == 0 && sgpus(device) ? 1 : -1;
        strcpy(process->entries[1].bdf, here.bdf);
        process->entries[1].memory = 2ul << 30;
        process->entries[1].sgpu = -1;
    }
    return OK;
}
#endif
