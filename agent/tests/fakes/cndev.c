/* A library with CNDev's functions: two cards, the first of which can be shared (`partitions N`: sMLU instances) or cut
 * (`mim N`).
 *
 * Beside the words of fake.h: `xid N` (an Xid of that number is waiting, once), `sick` (the library's own check fails the
 * first card), `problem` (the first card answers nothing but that it is in problem), `old_driver` (the driver is too old
 * from the next initialisation on), `more N` (N processes more), `slow_pcie` (counting PCIe traffic takes 20 ms).
 *
 * Built with OLD it has what a library of interface 5 had: no handles, shorter structures, none of the newer functions.
 * Built with WITHOUT_FIELDS it lacks fields, MPM and what is as new.
 *
 * Every function refuses a structure whose version the caller did not set.
 */
#include "fake.h"

typedef int32_t i32;
typedef uint32_t u32;
typedef int64_t i64;
typedef uint64_t u64;

enum { OK = 0, NO_DRIVER = 1, LOW_DRIVER = 2, REFUSED = 3, INVALID = 5, NO_DEVICE = 6, SPACE = 9, NOT_SUPPORTED = 10, INVALID_LINK = 11, NOT_FOUND = 14, TIMEOUT = 17, IN_PROBLEM = 18 };
enum { CARDS = 2, MIM = 1000 };

#ifdef OLD
enum { VERSION = 5, BASE = 0, LINKS = 2 };
#else
enum { VERSION = 6, BASE = 100, LINKS = 4 };
#endif

/* Every function of a device begins so. A handle is the card's number and a base, or of an instance of the first. */
static int card_of(i32 device) { return device >= MIM ? 0 : device - BASE; }
#define BEGIN(device) \
    FAKE_ENTER(); \
    if (card_of(device) < 0 || card_of(device) >= CARDS || fake_is_lost(card_of(device))) return NO_DEVICE; \
    if (fake_has("problem") && card_of(device) == 0) return IN_PROBLEM
#define VERSIONED(out) \
    if ((out)->version != VERSION) return REFUSED

static int sentinel(void) { return fake_has("sentinel"); }
static i32 value(i32 number) { return sentinel() ? -1 : number; }
static u64 wide(u64 number) { return sentinel() ? ~0ull : number; }

int cndevInit(i32 reserved) {
    FAKE_ENTER();
    printf("a library that prints\n");
    fflush(stdout);
    if (reserved) return INVALID;
    return fake_has("old_driver") ? LOW_DRIVER : OK;
}
int cndevRelease(void) { FAKE_ENTER(); return OK; }
const char *cndevGetErrorString(i32 code) { return code == IN_PROBLEM ? "In Problem" : code == LOW_DRIVER ? "Low Driver Version" : "Some error"; }

typedef struct { i32 version; u32 number; } card_info;
int cndevGetDeviceCount(card_info *out) { FAKE_ENTER(); VERSIONED(out); out->number = CARDS; return OK; }

typedef struct { i32 version; unsigned char uuid[37]; u64 ncs; } uuid_info;
int cndevGetUUID(uuid_info *out, i32 device) {
    BEGIN(device);
    VERSIONED(out);
    /* Thirty-six characters; the vendor warns that they need not have an end. */
    char text[64];
    snprintf(text, sizeof text, "20001012-1916-0000-0000-%012d", card_of(device));
    memcpy(out->uuid, text, 36);
    out->uuid[36] = 0;
    return OK;
}
typedef struct { i32 version; u64 sn, board; } sn_info;
int cndevGetCardSN(sn_info *out, i32 device) { BEGIN(device); VERSIONED(out); out->sn = 0x202900010000 + card_of(device); return OK; }
typedef struct { i32 version; u32 mcu[3], driver[3]; } version_info;
int cndevGetVersionInfo(version_info *out, i32 device) {
    BEGIN(device);
    VERSIONED(out);
    *out = (version_info){VERSION, {1, 1, 4}, {5, 10, 22}};
    return OK;
}
typedef struct { i32 version, count; } count_info;
int cndevGetCoreCount(count_info *out, i32 device) { BEGIN(device); VERSIONED(out); out->count = 24; return OK; }
int cndevGetCardName(count_info *out, i32 device) { BEGIN(device); VERSIONED(out); out->count = 23; return OK; }
const char *cndevGetCardNameString(i32 number) { return number == 23 ? "MLU370" : "Unknown"; }

typedef struct { i32 version, average, core[80]; } utilization_info;
int cndevGetDeviceUtilizationInfo(utilization_info *out, i32 device) {
    BEGIN(device);
    VERSIONED(out);
    out->average = value(device >= MIM ? 25 : 40);
    return OK;
}
typedef struct {
    i32 version, board, cluster[20], die[8], chip, inlet, outlet, memory, vi, cpu;
#ifndef OLD
    i32 isp;
#endif
} temperature_info;
int cndevGetTemperatureInfo(temperature_info *out, i32 device) {
    BEGIN(device);
    VERSIONED(out);
    out->board = value(45);
    out->chip = value(54);
    out->memory = value(61);
    for (int n = 0; n < 20; n++) out->cluster[n] = n < 4 ? value(56 + n) : -1;
    return OK;
}
typedef struct {
    i32 version, board, ddr;
    unsigned char over, fast;
#ifndef OLD
    uint16_t count, cluster[20];
    i32 normal, range[2];
#endif
} frequency_info;
int cndevGetFrequencyInfo(frequency_info *out, i32 device) {
    BEGIN(device);
    VERSIONED(out);
    out->board = value(1300);
    out->ddr = value(1600);
#ifndef OLD
    out->normal = 1000;
    out->range[0] = 300;
    out->range[1] = 1400;
#endif
    return OK;
}
typedef struct { i32 version, speed, width; } pci_link;
int cndevGetCurrentPCIInfo(pci_link *out, i32 device) { BEGIN(device); VERSIONED(out); out->speed = value(4); out->width = value(16); return OK; }

typedef struct { i32 version; u32 pid; u64 physical, virtual; } process_info;
int cndevGetProcessInfo(u32 *count, process_info *out, i32 device) {
    BEGIN(device);
    VERSIONED(out);
    u32 room = *count, more = card_of(device) ? 0 : (u32)fake_number("more", 0);
    *count = 2 + more;
    if (room < *count) return SPACE;
    out[0] = (process_info){VERSION, 4242, 1 << 20, 0};
    out[1] = (process_info){VERSION, 977, ~0ull, 0};
    for (u32 n = 0; n < more; n++) out[2 + n] = (process_info){VERSION, 10000 + n, 1, 0};
    return OK;
}
typedef struct { u32 pid, ipu, jpu, decoder, encoder, memory; } process_load;
typedef struct { i32 version; process_load load; } process_util_v1;
int cndevGetProcessUtilization(u32 *count, process_util_v1 *out, i32 device) {
    BEGIN(device);
    VERSIONED(out);
    if (*count < 1) return SPACE;
    *count = 1;
    out[0].load = (process_load){4242, 35, 0, 0, 0, 10};
    return OK;
}
typedef struct { i32 version, cause; u32 count; u64 addresses[512]; } retired_pages;
int cndevGetRetiredPages(retired_pages *out, i32 device) {
    BEGIN(device);
    VERSIONED(out);
    if (out->cause < 0 || out->cause > 1) return INVALID;
    out->count = 2 + out->cause;
    return OK;
}
typedef struct { i32 version; u32 pending, failed; } retired_status;
int cndevGetRetiredPagesStatus(retired_status *out, i32 device) { BEGIN(device); VERSIONED(out); out->pending = 0; return OK; }
int cndevGetMLULinkPortNumber(i32 device) { FAKE_ENTER(); return fake_is_lost(card_of(device)) ? -1 : LINKS; }

#ifdef OLD
typedef struct { i32 version; u32 ids[2]; uint16_t vendors[2]; u32 domain, bus, device, function; const char *name; i32 slot; } pcie_info;
int cndevGetPCIeInfo(pcie_info *out, i32 device) { BEGIN(device); VERSIONED(out); out->bus = card_of(device) ? 0x65 : 0x17; return OK; }
typedef struct { i32 version; i64 total, used, vtotal, vused, channels, channel[20]; } memory_v1;
int cndevGetMemoryUsage(memory_v1 *out, i32 device) { BEGIN(device); VERSIONED(out); out->total = value(16384); out->used = value(4096); return OK; }
typedef struct { i32 version, usage, cap, usage_decimal, machine, cap_decimal; uint16_t tdp; } power_v1;
int cndevGetPowerInfo(power_v1 *out, i32 device) { BEGIN(device); VERSIONED(out); out->usage = value(71); out->cap = value(150); out->usage_decimal = 25; return OK; }
typedef struct { i32 version, speed, count, chassis[12]; } fan_info;
int cndevGetFanSpeedInfo(fan_info *out, i32 device) { BEGIN(device); VERSIONED(out); out->speed = value(30); return OK; }
typedef struct { i32 version, health; } health_v1;
int cndevGetCardHealthState(health_v1 *out, i32 device) { BEGIN(device); VERSIONED(out); out->health = !fake_has("sick"); return OK; }
typedef struct { i32 version; u64 single[4], corrected, uncorrected, total, forbidden; } ecc_info;
int cndevGetECCInfo(ecc_info *out, i32 device) { BEGIN(device); VERSIONED(out); out->corrected = wide(3); out->uncorrected = wide(1); return OK; }
typedef struct { i32 version; u32 corrected, uncorrected, pending, failed; } remapped_v1;
int cndevGetRemappedRows(remapped_v1 *out, i32 device) { BEGIN(device); VERSIONED(out); *out = (remapped_v1){VERSION, 2, 1, 0, 1}; return OK; }
typedef struct { i32 version, active, serdes; } link_status_v1;
int cndevGetMLULinkStatus(link_status_v1 *out, i32 device, i32 link) { BEGIN(device); VERSIONED(out); if (link >= LINKS) return INVALID_LINK; out->active = link != 1; return OK; }
typedef struct { i32 version; u64 read_bytes, read, write_bytes, write, replay, fatal, dbe, crc24, crc32, corrected, uncorrected; } link_counter;
int cndevGetMLULinkCounter(link_counter *out, i32 device, i32 link) {
    BEGIN(device);
    VERSIONED(out);
    if (link >= LINKS) return INVALID_LINK;
    *out = (link_counter){.version = VERSION, .read_bytes = wide(1000), .write_bytes = wide(2000), .replay = 3, .crc24 = 1, .crc32 = 1};
    return OK;
}
#else
int cndevGetDeviceHandleByIndex(i32 index, i32 *out) {
    FAKE_ENTER();
    if (index < 0 || index >= CARDS || fake_is_lost(index)) return NOT_FOUND;
    *out = BASE + index;
    return OK;
}
int cndevDeviceGetMinorNumber(u32 *out, i32 device) { BEGIN(device); *out = card_of(device); return OK; }
const char *cndevGetCardNameStringByDevId(i32 device) { return card_of(device) < CARDS ? "MLU590-M9" : NULL; }
typedef struct { u32 ids[2]; uint16_t vendors[2]; u32 domain, bus, device, function; uint16_t module, slot; u32 reserved[8]; } pcie_v2;
int cndevGetPCIeInfoV2(pcie_v2 *out, i32 device) { BEGIN(device); *out = (pcie_v2){.bus = card_of(device) ? 0x65 : 0x17}; return OK; }
typedef struct { i64 total, used, reserved, vtotal, vused; u64 global, rest[16]; } memory_v2;
int cndevGetMemoryUsageV2(memory_v2 *out, i32 device) {
    BEGIN(device);
    int part = device >= MIM ? 4 : 1;
    if (device >= MIM && device - MIM >= fake_number("mim", 0)) return NOT_FOUND;
    *out = (memory_v2){.total = value(81920 / part), .used = value(20480 / part), .reserved = value(1024 / part)};
    return OK;
}
typedef struct { i32 usage, cap, machine, tdp, max, reserved[16]; } power_v2;
int cndevGetDevicePowerInfo(power_v2 *out, i32 device) { BEGIN(device); *out = (power_v2){.usage = value(271), .cap = value(550)}; return OK; }
int cndevGetMaxPCIInfo(pci_link *out, i32 device) { BEGIN(device); VERSIONED(out); out->speed = 5; out->width = 16; return OK; }
int cndevGetPcieReplayCounter(count_info *out, i32 device) { BEGIN(device); VERSIONED(out); out->count = value(9); return OK; }
typedef struct { i64 read, write, read_total, write_total; u64 at; i64 reserved[8]; } throughput;
int cndevGetPCIethroughputV2(throughput *out, i32 device) {
    BEGIN(device);
    static i64 calls;
    if (fake_has("slow_pcie")) usleep(20000);
    *out = (throughput){10, 20, value(1000000) + (fake_has("slow_pcie") ? ++calls : 0), value(2000000), fake_now_micros(), {0}};
    return OK;
}
typedef struct { int16_t core, soc, vcc, vdd, reserved[16]; } voltage_info;
int cndevGetVoltageInfo(voltage_info *out, i32 device) { BEGIN(device); *out = (voltage_info){value(850), 0, -1, -1, {0}}; return OK; }
typedef struct { i32 count, load[20]; } units;
typedef struct { i32 version; units all, encoders, decoders; } video_codecs;
int cndevGetVideoCodecUtilization(video_codecs *out, i32 device) {
    BEGIN(device);
    VERSIONED(out);
    *out = (video_codecs){VERSION, {3, {1, 2, 3}}, {1, {value(5)}}, {2, {value(6), value(8)}}};
    return OK;
}
typedef struct { i32 version; units all; } image_codecs;
int cndevGetImageCodecUtilization(image_codecs *out, i32 device) { BEGIN(device); VERSIONED(out); out->all = (units){2, {value(3), value(-1)}}; return OK; }
typedef struct { i32 version, each[6]; } throttle;
int cndevGetPerformanceThrottleReason(throttle *out, i32 device) { BEGIN(device); VERSIONED(out); *out = (throttle){VERSION, {value(1), 1, 0, 0, 0, 1}}; return OK; }
int cndevGetComputeMode(count_info *out, i32 device) { BEGIN(device); VERSIONED(out); out->count = value(1); return OK; }

typedef struct { i32 system, verdict; char message[512]; u32 device, bdf; i32 error; u32 category, severity; } incident;
typedef struct { i32 health, device, driver, overall; u32 count; incident incidents[64]; u32 reserved[8]; } health_v2;
int cndevGetCardHealthStateV2(health_v2 *out, i32 device) {
    BEGIN(device);
    int sick = fake_has("sick") && card_of(device) == 0;
    memset(out, 0, sizeof *out);
    *out = (health_v2){.health = !sick, .device = !sick, .driver = 4, .overall = sentinel() ? -1 : sick ? 20 : 0, .count = sick};
    out->incidents[0] = (incident){.system = 2, .verdict = 20, .message = "An MLU-Link is down", .error = 9};
    return OK;
}
typedef struct { i32 version; u32 sram_sbe, sram_dbe, sram_parity, dram_sbe, dram_dbe; u64 life[5]; unsigned char over; u64 reserved[11]; } mem_ecc;
int cndevGetMemEccCounter(mem_ecc *out, i32 device) { BEGIN(device); VERSIONED(out); *out = (mem_ecc){VERSION, value(1), value(2), 4, 8, 16, {0}, 0, {0}}; return OK; }
typedef struct { i32 version; u32 corrected, uncorrected, histogram[3]; } remapped_v2;
int cndevGetRemappedRowsV2(remapped_v2 *out, i32 device) { BEGIN(device); VERSIONED(out); *out = (remapped_v2){VERSION, value(2), value(1), {0}}; return OK; }
typedef struct { i32 version; unsigned char retire, pending, failed; } repair;
int cndevGetRepairStatus(repair *out, i32 device) { BEGIN(device); VERSIONED(out); *out = (repair){VERSION, 0, 0, 1}; return OK; }

typedef struct { i32 mac, serdes, presence; u32 progress, reserved[7]; } link_status;
int cndevGetMLULinkStatusV2(link_status *out, i32 device, i32 link) { BEGIN(device); if (link >= LINKS) return INVALID_LINK; *out = (link_status){.mac = link == 3 ? 0 : link + 1}; return OK; }
typedef struct { u64 rx_bytes, rx, tx_bytes, tx, roce[2], at, reserved[25]; } link_basic;
int cndevGetMLULinkBasicCounter(link_basic *out, i32 device, i32 link) { BEGIN(device); if (link >= LINKS) return INVALID_LINK; *out = (link_basic){.rx_bytes = wide(1000), .tx_bytes = wide(2000 + link)}; return OK; }
typedef struct { u64 fec, bad_fec, rx_fcs, tx_fcs, illegal, reserved[11]; } link_error;
int cndevGetMLULinkErrorCounter(link_error *out, i32 device, i32 link) { BEGIN(device); if (link >= LINKS) return INVALID_LINK; *out = (link_error){.rx_fcs = link}; return OK; }
typedef struct { u64 down, replay, failed, reserved[13]; } link_event;
int cndevGetMLULinkEventCounter(link_event *out, i32 device, i32 link) { BEGIN(device); if (link >= LINKS) return INVALID_LINK; *out = (link_event){.replay = 2}; return OK; }

/* Instances: MIM has handles of its own, sMLU says what each uses. */
int cndevGetMimMode(count_info *out, i32 device) { BEGIN(device); VERSIONED(out); out->count = card_of(device) == 0 && fake_number("mim", 0) > 0; return OK; }
int cndevGetSMLUMode(count_info *out, i32 device) { BEGIN(device); VERSIONED(out); out->count = card_of(device) == 0 && fake_number("partitions", 0) > 0; return OK; }
typedef struct {
    i32 version, parent, id, profile_id;
    char uuid[37];
    i32 pci[4], placement[3], cores, vpu, jpu, gdma, memory;
    char profile[100], node[100], message_node[100], name[100];
    u32 reserved[128];
} mim_info;
int cndevGetAllMluInstanceInfo(i32 *count, mim_info *out, i32 device) {
    BEGIN(device);
    VERSIONED(out);
    i32 room = *count;
    *count = fake_number("mim", 0);
    if (room < *count) return SPACE;
    for (i32 n = 0; n < *count; n++) {
        out[n] = (mim_info){.version = VERSION, .parent = device, .id = n + 1, .cores = 6, .memory = 20480, .profile = "1m.20gb"};
        snprintf(out[n].uuid, sizeof out[n].uuid, "mim-%d", n + 1);
        snprintf(out[n].node, sizeof out[n].node, "/dev/cambricon_dev0mi%d", n + 1);
    }
    return OK;
}
int cndevGetMluInstanceById(i32 *out, i32 id, i32 device) { BEGIN(device); *out = MIM + id - 1; return id > 0 ? OK : NOT_FOUND; }
typedef struct {
    i32 version, profile_id, id;
    char uuid[37];
    i32 pci[4];
    char profile[100], name[100], node[100];
    u32 quota[2];
    u64 memory[2];
    u32 reserved[128];
} smlu_info;
int cndevGetAllSMluInstanceInfo(i32 *count, smlu_info *out, i32 device) {
    BEGIN(device);
    VERSIONED(out);
    i32 room = *count;
    *count = fake_number("partitions", 0);
    if (room < *count) return SPACE;
    for (i32 n = 0; n < *count; n++) {
        out[n] = (smlu_info){.version = VERSION, .id = n + 257, .profile = "25.20Gb", .quota = {25, 20}, .memory = {20ull << 30, 5ull << 30}};
        snprintf(out[n].uuid, sizeof out[n].uuid, "smlu-%d", n);
    }
    return OK;
}
typedef struct { process_load load; u64 at; } process_util_v2;
int cndevGetProcessUtilizationInfo(u32 *count, process_util_v2 *out, i32 device) {
    BEGIN(device);
    if (*count < 1) return SPACE;
    *count = 1;
    out[0] = (process_util_v2){{4242, 60, 1, 2, 3, 10}, fake_now_micros()};
    return OK;
}

static int handle;
int cndevEventHandleCreate(void **out) { FAKE_ENTER(); *out = &handle; return OK; }
int cndevEventHandleDestroy(void *of) { FAKE_ENTER(); return of == &handle ? OK : INVALID; }
int cndevRegisterEvents(void *of, unsigned long long types, i32 device) { BEGIN(device); return of == &handle && types & 1 ? OK : INVALID; }
typedef struct { u32 version; i32 device; u64 data, type, at; u32 instances[2]; u64 reserved[8]; } event;
int cndevEventWait(void *of, event *out, i32 timeout) {
    FAKE_ENTER();
    VERSIONED(out);
    static long told;
    long xid = fake_number("xid", 0);
    if (timeout < 0 || timeout > 10 || of != &handle) return INVALID;
    if (!xid || xid == told) return TIMEOUT;
    told = xid;
    *out = (event){.version = VERSION, .device = BASE + 1, .data = xid, .type = 1, .at = fake_now_micros()};
    return OK;
}

#ifndef WITHOUT_FIELDS
typedef struct { i32 field, ret; u64 value; i32 type; long long latency, at; u32 scope; } field;
int cndevDeviceGetFieldValues(i32 device, i32 count, field *fields) {
    BEGIN(device);
    for (i32 n = 0; n < count; n++) {
        field *f = &fields[n];
        f->ret = OK;
        f->type = 4;
        switch (f->field) {
        case 52: f->value = (u32)value(90); break;
        case 53: f->value = (u32)value(100); break;
        case 56: case 57: case 58: case 59: case 60: f->type = 2; f->value = wide(f->field); break;
        case 65: f->value = (u32)value(12); break;
        case 71: f->type = 3; f->value = wide(123456789); break;
        case 72: f->type = 3; f->value = 1500000000; break;
        /* One that this library does not know spoils all. */
        case 73: return INVALID;
        default: f->ret = NOT_SUPPORTED;
        }
    }
    return OK;
}
int cndevMpmQueryDeviceSupport(i32 device, unsigned char *out) { BEGIN(device); *out = 1; return OK; }
typedef struct { long taken; } snapshot;
int cndevMpmSampleAlloc(snapshot **out) { FAKE_ENTER(); *out = calloc(1, sizeof **out); return OK; }
int cndevMpmSampleFree(snapshot *of) { FAKE_ENTER(); free(of); return OK; }
static long snapshots;
int cndevMpmSampleGet(snapshot *out, i32 device) { BEGIN(device); out->taken = ++snapshots; return OK; }
typedef struct { i32 metric, ret; double value; char *names[3]; } metric;
typedef struct { u32 version, count; snapshot *before, *after; metric metrics[256]; } metrics;
int cndevMpmMetricsGet(metrics *get) {
    FAKE_ENTER();
    if (get->version != 1 || !get->before->taken || get->before->taken >= get->after->taken) return INVALID;
    for (u32 n = 0; n < get->count; n++) {
        metric *m = &get->metrics[n];
        m->ret = OK;
        m->value = sentinel() ? 0.0 / 0.0 : m->metric + 20.0;
    }
    return OK;
}
#endif
#endif
