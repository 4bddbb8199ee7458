/* A library with MTML's functions: two cards, the first of which can be cut into instances.
 *
 * Beside the words of fake.h: `hidden` (the devices listed are the second card and the first instance only, as in a
 * container), `listed` (instances are among the devices too), `outdated` (the driver is of another version from the next
 * initialisation on).
 *
 * Built with DOCUMENTED_ONLY it has only what the documentation knows.
 */
#include "fake.h"

typedef unsigned int u32;
typedef unsigned long long u64;

enum { OK = 0, NOT_LOADED = 1, DRIVER_FAILURE = 2, INVALID = 3, NOT_SUPPORTED = 4, TOO_SMALL = 6, NOT_FOUND = 7, TOO_NEW = 10 };
enum { CARDS = 2, PARTS = 8 };

typedef struct { int card, part; } device;
static device cards[CARDS] = {{0, -1}, {1, -1}};
static device parts[PARTS] = {{0, 0}, {0, 1}, {0, 2}, {0, 3}, {0, 4}, {0, 5}, {0, 6}, {0, 7}};
/* Handles of parts are those of the device, moved: one that is mistaken for another is found out. */
#define GPU(d) ((void *)((char *)(d) + (1ul << 60)))
#define MEMORY(d) ((void *)((char *)(d) + (2ul << 60)))
#define VIDEO(d) ((void *)((char *)(d) + (3ul << 60)))
static int library, handles;

static int sentinel(void) { return fake_has("sentinel"); }
static u32 value(u32 number) { return sentinel() ? 0xffffffffu : number; }
static int cut(void) { return fake_number("partitions", 0); }

/* Every function of a device or of a part of one begins so. */
#define BEGIN(handle, kind) \
    FAKE_ENTER(); \
    if ((unsigned long)(handle) >> 60 != kind) return INVALID; \
    device *d = (device *)((char *)(handle) - ((unsigned long)kind << 60)); \
    if (fake_is_lost(d->card)) return DRIVER_FAILURE; \
    if (d->part >= cut()) return NOT_FOUND

static int text(char *out, u32 length, const char *what) {
    if (strlen(what) + 1 > length) return TOO_SMALL;
    strcpy(out, what);
    return OK;
}

int mtmlLibraryInit(void **out) {
    FAKE_ENTER();
    if (fake_has("outdated")) return TOO_NEW;
    *out = &library;
    return OK;
}
int mtmlLibraryShutDown(void *session) {
    FAKE_ENTER();
    /* All that was made must have been given back. */
    if (handles) abort();
    return session == &library ? OK : INVALID;
}
const char *mtmlErrorString(u32 code) { return code == DRIVER_FAILURE ? "driver failure" : "some error"; }
int mtmlLibraryCountDevice(void *session, u32 *out) {
    FAKE_ENTER();
    *out = fake_has("hidden") ? 2 : CARDS + (fake_has("listed") ? cut() : 0);
    return session == &library ? OK : INVALID;
}
int mtmlLibraryInitDeviceByIndex(void *session, u32 index, device **out) {
    FAKE_ENTER();
    if (session != &library) return INVALID;
    if (fake_has("hidden")) *out = index ? &parts[0] : &cards[1];
    else *out = index < CARDS ? &cards[index] : &parts[index - CARDS];
    if (fake_is_lost((*out)->card)) return DRIVER_FAILURE;
    return OK;
}
int mtmlLibraryFreeDevice(device *handle) { FAKE_ENTER(); return handle ? OK : INVALID; }
int mtmlLibraryInitSystem(void *session, void **out) { FAKE_ENTER(); *out = &handles; return session == &library ? OK : INVALID; }
int mtmlLibraryFreeSystem(void *system) { FAKE_ENTER(); return system == &handles ? OK : INVALID; }
int mtmlSystemGetDriverVersion(void *system, char *out, u32 length) { FAKE_ENTER(); return system == &handles ? text(out, length, "2.7.0") : INVALID; }

int mtmlDeviceGetUUID(void *handle, char *out, u32 length) {
    BEGIN(handle, 0);
    char uuid[48];
    if (d->part < 0) snprintf(uuid, sizeof uuid, "MTT-%08d", d->card);
    else snprintf(uuid, sizeof uuid, "MPC-%08d-%d", d->card, d->part);
    return text(out, length, uuid);
}
int mtmlDeviceGetName(void *handle, char *out, u32 length) { BEGIN(handle, 0); return text(out, length, "MTT S4000"); }
int mtmlDeviceGetSerialNumber(void *handle, u32 length, char *out) { BEGIN(handle, 0); return text(out, length, "S40001234567"); }
int mtmlDeviceGetMtBiosVersion(void *handle, char *out, u32 length) { BEGIN(handle, 0); return text(out, length, "3.2.1"); }
int mtmlDeviceGetPrimaryPath(void *handle, char *out, u32 length) { BEGIN(handle, 0); return text(out, length, d->card ? "/dev/dri/card2" : "/dev/dri/card1"); }
typedef struct {
    char address[32];
    u32 segment, bus, device, id, subsystem, bus_width;
    float max_speed, speed;
    u32 max_width, width, max_generation, generation;
    int reserved[6];
} pci;
int mtmlDeviceGetPciInfo(void *handle, pci *out) {
    BEGIN(handle, 0);
    memset(out, 0, sizeof *out);
    /* The second card's driver leaves the text empty. */
    if (d->card == 0) strcpy(out->address, "00000000:1A:00.0");
    out->bus = d->card ? 0x3b : 0x1a;
    out->max_width = 16; out->width = 8; out->max_generation = 5; out->generation = 4;
    return OK;
}
typedef struct { u32 bits, reserved; } property;
int mtmlDeviceGetProperty(void *handle, property *out) {
    BEGIN(handle, 0);
    out->bits = 1u << 8 | (d->part >= 0 ? 2u << 5 : d->card == 0 ? 1u << 4 | (cut() ? 1u << 5 : 0) : 0);
    return OK;
}
int mtmlDeviceCountGpuCores(void *handle, u32 *out) { BEGIN(handle, 0); *out = 8192; return OK; }
int mtmlDeviceGetPowerUsage(void *handle, u32 *out) { BEGIN(handle, 0); *out = value(71250); return OK; }
int mtmlDeviceGetFanSpeed(void *handle, u32 index, u32 *out) { BEGIN(handle, 0); *out = 30; return index ? NOT_FOUND : OK; }

int mtmlDeviceGetMpcMode(void *handle, u32 *out) { BEGIN(handle, 0); *out = d->card == 0 && cut() > 0; return d->card ? NOT_SUPPORTED : OK; }
int mtmlDeviceCountMpcInstances(void *handle, u32 *out) { BEGIN(handle, 0); *out = cut(); return d->card ? NOT_SUPPORTED : OK; }
int mtmlDeviceGetMpcInstanceByIndex(void *handle, u32 index, device **out) {
    BEGIN(handle, 0);
    if (d->card || (int)index >= cut()) return NOT_FOUND;
    *out = &parts[index];
    return OK;
}
typedef struct { u32 id, cores; u64 memory; char name[32]; u32 reserved[10]; } profile;
int mtmlDeviceGetMpcProfileInfo(void *handle, profile *out) {
    BEGIN(handle, 0);
    *out = (profile){1, 2048, 12288, "1c.12gb", {0}};
    return d->part < 0 ? NOT_SUPPORTED : OK;
}

int mtmlDeviceInitGpu(void *handle, void **out) { BEGIN(handle, 0); handles++; *out = GPU(d); return OK; }
int mtmlDeviceFreeGpu(void *handle) { FAKE_ENTER(); handles--; return handle ? OK : INVALID; }
int mtmlGpuGetUtilization(void *handle, u32 *out) { BEGIN(handle, 1); *out = value(d->part < 0 ? 40 : 55); return OK; }
int mtmlGpuGetTemperature(void *handle, int *out) { BEGIN(handle, 1); *out = sentinel() ? -274 : 54; return OK; }
int mtmlGpuGetClock(void *handle, u32 *out) { BEGIN(handle, 1); *out = value(1600); return OK; }
int mtmlGpuGetMaxClock(void *handle, u32 *out) { BEGIN(handle, 1); *out = 1750; return OK; }

int mtmlDeviceInitMemory(void *handle, void **out) { BEGIN(handle, 0); handles++; *out = MEMORY(d); return OK; }
int mtmlDeviceFreeMemory(void *handle) { FAKE_ENTER(); handles--; return handle ? OK : INVALID; }
int mtmlMemoryGetTotal(void *handle, u64 *out) { BEGIN(handle, 2); *out = sentinel() ? ~0ull : (d->part < 0 ? 48ull : 12ull) << 30; return OK; }
int mtmlMemoryGetUsed(void *handle, u64 *out) { BEGIN(handle, 2); *out = sentinel() ? ~0ull : (d->part < 0 ? 20ull : 3ull) << 30; return OK; }
int mtmlMemoryGetUtilization(void *handle, u32 *out) { BEGIN(handle, 2); *out = value(42); return OK; }
int mtmlMemoryGetClock(void *handle, u32 *out) { BEGIN(handle, 2); *out = value(2000); return OK; }
int mtmlMemoryGetMaxClock(void *handle, u32 *out) { BEGIN(handle, 2); *out = 2100; return OK; }
#ifndef WITHOUT_ECC
int mtmlMemoryGetEccErrorCounter(void *handle, u32 error, u32 counter, u32 place, u64 *out) {
    BEGIN(handle, 2);
    *out = 1 + 2 * counter + error;
    return place == 1 ? OK : INVALID;
}
typedef struct { u32 corrected, uncorrected; } retired;
int mtmlMemoryGetRetiredPagesCount(void *handle, retired *out) { BEGIN(handle, 2); *out = (retired){7, 8}; return OK; }
int mtmlMemoryGetRetiredPagesPendingStatus(void *handle, u32 *out) { BEGIN(handle, 2); *out = 1; return OK; }
#endif

int mtmlDeviceInitVpu(void *handle, void **out) { BEGIN(handle, 0); handles++; *out = VIDEO(d); return OK; }
int mtmlDeviceFreeVpu(void *handle) { FAKE_ENTER(); handles--; return handle ? OK : INVALID; }
typedef struct { u32 load, period, encoder, decoder; int reserved[2]; } video_load;
int mtmlVpuGetUtilization(void *handle, video_load *out) {
    BEGIN(handle, 3);
    *out = (video_load){value(9), 1000, value(5), value(6), {0}};
    return OK;
}
int mtmlVpuGetClock(void *handle, u32 *out) { BEGIN(handle, 3); *out = value(1000); return OK; }

typedef struct { u32 version, bandwidth, count, reserved[4]; } links;
int mtmlDeviceGetMtLinkSpec(void *handle, links *out) { BEGIN(handle, 0); *out = (links){10000, 64, 4, {0}}; return OK; }
int mtmlDeviceGetMtLinkState(void *handle, u32 link_number, u32 *out) { BEGIN(handle, 0); *out = link_number == 3 ? 0 : link_number == 2 ? 2 : 1; return OK; }

#ifndef DOCUMENTED_ONLY
int mtmlDeviceGetPcieReplayCounter(void *handle, u32 *out) { BEGIN(handle, 0); *out = 9; return OK; }
int mtmlDeviceGetPerformanceState(void *handle, int *out) { BEGIN(handle, 0); *out = sentinel() ? -1 : 2; return OK; }
int mtmlGpuGetEnforcedPowerLimit(void *handle, int *out) { BEGIN(handle, 1); *out = 450000; return OK; }
int mtmlGpuGetTemperatureThreshold(void *handle, int which, int *out) { BEGIN(handle, 1); *out = which ? 95 : 105; return OK; }
int mtmlGpuGetVoltage(void *handle, int *out) { BEGIN(handle, 1); *out = sentinel() ? -1 : 850; return OK; }
int mtmlMemoryGetTemperature(void *handle, int *out) { BEGIN(handle, 2); *out = sentinel() ? -1000 : 61; return OK; }
int mtmlMemoryGetUsedSystem(void *handle, u64 *out) { BEGIN(handle, 2); *out = 1ull << 30; return OK; }
#endif
