/* A library with DCMI's functions: two cards, numbered 2 and 5, the first of which has a controller beside its chip, and
 * a chip that can be cut into partitions.
 *
 * Beside the words of fake.h: `code N` (an error of that number stands on the second card's chip), `gone` (every chip is
 * lost), `idle` (the load is zero, where a burst is to be told from it).
 *
 * Built with OLD it has only what a library of some years ago had; with NUMBERED only the second generation of
 * functions, which address a chip by one number.
 */
#include "fake.h"

typedef unsigned int u32;
typedef unsigned long long u64;

enum { OK = 0, INVALID = -8001, NO_DEVICE = -8008, NOT_SUPPORTED = -8255 };
enum { CARDS = 2, PARTS = 7 };

static const int numbers[CARDS] = {2, 5};

/* Place of a card among the cards, from 0; -1 where there is none. */
FAKE_MAYBE int place(int card) {
    for (int n = 0; n < CARDS; n++) if (numbers[n] == card) return n;
    return -1;
}

/* Every function of a chip begins so, and knows the place of its card as `n`. */
#ifdef NUMBERED
#define CHIP int id
#define NAME(first, second) second
#define BEGIN \
    FAKE_ENTER(); \
    int n = id; \
    if (n < 0 || n >= CARDS) return INVALID; \
    if (fake_has("gone") || fake_is_lost(n)) return NO_DEVICE
#else
#define CHIP int card, int chip
#define NAME(first, second) first
#define BEGIN \
    FAKE_ENTER(); \
    int n = place(card); \
    if (n < 0 || chip) return INVALID; \
    if (fake_has("gone") || fake_is_lost(n)) return NO_DEVICE
#endif
#define UNUSED (void)n

static int sentinel(void) { return fake_has("sentinel"); }
static u32 value(u32 number) { return sentinel() ? 0xffffffffu : number; }
FAKE_MAYBE long parts(int n) { return n ? 0 : fake_number("partitions", 0); }

#ifdef NUMBERED
int dcmiv2_init(void) { FAKE_ENTER(); return OK; }
int dcmiv2_get_device_list(int *out, int *count, int room) {
    FAKE_ENTER();
    if (room < CARDS) return INVALID;
    *count = CARDS;
    for (int n = 0; n < CARDS; n++) out[n] = n;
    return OK;
}
int dcmiv2_get_driver_version(char *out, u32 room) {
#else
int dcmi_init(void) {
    FAKE_ENTER();
    printf("a library that prints\n");
    fflush(stdout);
    return OK;
}
int dcmi_get_card_list(int *count, int *out, int room) {
    FAKE_ENTER();
    if (room < CARDS) return INVALID;
    *count = CARDS;
    memcpy(out, numbers, sizeof numbers);
    return OK;
}
int dcmi_get_device_num_in_card(int card, int *out) { FAKE_ENTER(); *out = place(card) ? 1 : 2; return OK; }
int dcmi_get_device_type(int card, int chip, u32 *out) { FAKE_ENTER(); *out = chip; return card < 0 ? INVALID : OK; }
int dcmi_get_device_logic_id(int *out, int card, int chip) { FAKE_ENTER(); *out = place(card); return chip ? INVALID : OK; }
int dcmi_get_device_phyid_from_logicid(u32 logic, u32 *out) { FAKE_ENTER(); *out = logic + 4; return OK; }
int dcmi_get_driver_version(char *out, u32 room) {
#endif
    FAKE_ENTER();
    return snprintf(out, room, "24.1.rc3") < (int)room ? OK : INVALID;
}

typedef struct { char type[32], name[32], version[32]; u32 aicores; char npu[32]; } chip_info;
#ifdef OLD
int dcmi_get_device_chip_info(CHIP, chip_info *out) {
#else
int NAME(dcmi_get_device_chip_info_v2, dcmiv2_get_device_chip_info)(CHIP, chip_info *out) {
#endif
    BEGIN; UNUSED;
    strcpy(out->type, "Ascend");
    strcpy(out->name, "910B3");
    strcpy(out->version, "V1");
    out->aicores = 20;
    return OK;
}
typedef struct { u32 ids[4]; int domain; u32 bus, device, function; unsigned char reserved[32]; } pcie_info;
int NAME(dcmi_get_device_pcie_info_v2, dcmiv2_get_device_pcie_info)(CHIP, pcie_info *out) {
    BEGIN;
    memset(out, 0, sizeof *out);
    out->bus = n ? 0xc2 : 0xc1;
    return OK;
}
typedef struct { u32 words[5]; } die;
int NAME(dcmi_get_device_die_v2, dcmiv2_get_device_die_id)(CHIP, int which, die *out) {
    BEGIN;
    if (which != 1) return INVALID;
    *out = (die){{0x1234abcd, 0, 0, 0, n}};
    return OK;
}
typedef struct { char product[256], model[256], manufacturer[256], made[256], serial[256]; } label;
#ifdef NUMBERED
int dcmiv2_get_device_elabel_info(CHIP, label *out) { BEGIN; UNUSED;
#else
int dcmi_get_card_elabel_v2(int card, label *out) { FAKE_ENTER(); if (place(card) < 0) return INVALID;
#endif
    strcpy(out->serial, "033XYZ10P1000001");
    return OK;
}

/* Loads: AI core 40, vector 30, cube 35, overall 45. */
static u32 burst(u32 load) { return fake_has("idle") ? 0 : value(load); }
#ifndef OLD
typedef struct { u32 cube, vector, aicore, overall, reserved[8]; } loads;
int NAME(dcmi_get_device_multi_utilization_rate, dcmiv2_get_device_multi_utilization_rate)(CHIP, loads *out) {
    BEGIN; UNUSED;
    *out = (loads){burst(35), burst(30), burst(40), burst(45), {0}};
    return OK;
}
#endif
int NAME(dcmi_get_device_utilization_rate, dcmiv2_get_device_utilization_rate)(CHIP, int which, u32 *out) {
    BEGIN; UNUSED;
    switch (which) {
    case 2: *out = burst(40); return OK;
    case 5: *out = value(22); return OK;
    default: return INVALID;
    }
}

#ifndef WITHOUT_SENSORS
int NAME(dcmi_get_device_power_info, dcmiv2_get_device_power_info)(CHIP, int *out) { BEGIN; UNUSED; *out = sentinel() ? 0x7ffd : 3123; return OK; }
int NAME(dcmi_get_device_temperature, dcmiv2_get_device_temperature)(CHIP, int *out) { BEGIN; UNUSED; *out = sentinel() ? 0x7ffd : 54; return OK; }
#endif
int NAME(dcmi_get_device_health, dcmiv2_get_device_health)(CHIP, u32 *out) {
    BEGIN;
    *out = value(n && fake_has("code") ? 2 : 0);
    return OK;
}
typedef struct { u64 total, available; u32 clock; unsigned long huge[3]; u32 used; unsigned char reserved[60]; } memory;
#ifndef NUMBERED
int dcmi_get_device_memory_info_v3(CHIP, memory *out) {
    BEGIN; UNUSED;
    memset(out, 0, sizeof *out);
    out->total = sentinel() ? ~0ull : 24576;
    out->available = sentinel() ? ~0ull : 20480;
    out->clock = value(3200);
    return OK;
}
#endif

#ifndef OLD
typedef struct { u64 total; u32 clock; u64 used; int celsius; u32 bandwidth; } hbm;
int NAME(dcmi_get_device_hbm_info, dcmiv2_get_device_hbm_info)(CHIP, hbm *out) {
    BEGIN; UNUSED;
    *out = sentinel() ? (hbm){~0ull, ~0u, ~0ull, 0x7ffd, ~0u} : (hbm){65536, 1600, 20480, 61, 33};
    return OK;
}
int NAME(dcmi_get_device_voltage, dcmiv2_get_device_voltage)(CHIP, u32 *out) { BEGIN; UNUSED; *out = sentinel() ? 0x7ffe : 78; return OK; }
int NAME(dcmi_get_device_frequency, dcmiv2_get_device_frequency)(CHIP, u32 which, u32 *out) {
    BEGIN; UNUSED;
    if (which != 7 && which != 9) return INVALID;
    *out = value(which == 7 ? 1650 : 1800);
    return OK;
}
int NAME(dcmi_get_device_sensor_info, dcmiv2_get_device_sensor_info)(CHIP, u32 which, unsigned char *out) {
    BEGIN; UNUSED;
    if (which != 9) return NOT_SUPPORTED;
    out[0] = 105; out[1] = 115;
    return OK;
}
int NAME(dcmi_get_device_network_health, dcmiv2_get_device_network_health)(CHIP, u32 *out) { BEGIN; *out = value(n ? 3 : 0); return OK; }
typedef struct { int enabled; u32 single, dbl, single_total, dbl_total, single_pages, dbl_pages, next[2]; } ecc;
int NAME(dcmi_get_device_ecc_info, dcmiv2_get_device_ecc_info)(CHIP, u32 which, ecc *out) {
    BEGIN; UNUSED;
    if (which == 0) return NOT_SUPPORTED;
    *out = which == 2 ? (ecc){1, 1, 2, 3, 4, 5, 6, {0}} : (ecc){0, 7, 7, 7, 7, 7, 7, {0}};
    return OK;
}
typedef struct { int pid; unsigned long memory; } process;
int NAME(dcmi_get_device_resource_info, dcmiv2_get_device_proc_mem_info)(CHIP, process *out, int *count) {
    BEGIN;
    *count = n ? 0 : 2;
    if (n) return OK;
    out[0] = (process){4242, 1ul << 30};
    out[1] = (process){977, sentinel() ? ~0ul : 1ul << 20};
    return OK;
}
int NAME(dcmi_get_device_errorcode_v2, dcmiv2_get_device_error_code_list)(CHIP, int *count, u32 *out, u32 room) {
    BEGIN;
    u32 code = n ? (u32)fake_number("code", 0) : 0;
    *count = code ? 2 : 1;
    if (room < 2) return INVALID;
    out[0] = 0x80cd8008; /* one that stands from the beginning */
    out[1] = code;
    return OK;
}
int NAME(dcmi_get_device_errorcode_string, dcmiv2_get_device_error_info)(CHIP, u32 code, char *out, int room) {
    BEGIN; UNUSED;
    return snprintf(out, room, "node %x is in trouble", code >> 24) < room ? OK : INVALID;
}
typedef struct { int period; u32 tx[4][3], rx[3][3]; } bandwidth;
int NAME(dcmi_get_pcie_link_bandwidth_info, dcmiv2_get_pcie_link_bandwidth_info)(CHIP, bandwidth *out) {
    BEGIN; UNUSED;
    if (out->period < 1 || out->period > 1000) return INVALID;
    out->tx[0][2] = 2; out->tx[1][2] = 100; out->tx[2][2] = 1; out->tx[3][2] = 900;
    out->rx[0][2] = 4; out->rx[1][2] = 100; out->rx[2][2] = 1;
    return OK;
}

typedef struct { u32 rated; unsigned char reserved[32]; } power;
typedef struct { u64 tx[16], rx[16], crc[16], retry[16], reserved[64]; } counters;
typedef struct { u32 ports, lanes[16], reserved[16]; } lanes;
typedef struct { u64 tokens[3]; u32 group; unsigned char mode, reserved[31]; } base_resource;
typedef struct {
    float aic, aiv;
    unsigned short units[8];
    u64 memory;
    u32 ids[4];
    unsigned short cpus[5];
    u32 load;
    u64 memory_total, memory_free;
    unsigned char reserved[12];
} computing;
typedef struct { float units[6]; unsigned char reserved[32]; } media;
typedef struct { char name[16]; u32 status, used, vf, group; u64 container; base_resource base; computing comp; media med; } query;
typedef struct { u32 id; query of; } partition;
typedef struct { u32 count, ids[32], groups, bitmap; base_resource base; computing comp; media med; } total;

static int resource(int n, u32 which, void *buf, u32 size) {
    if (which == 1) {
        total *out = buf;
        if (size != sizeof *out) return INVALID;
        memset(out, 0, sizeof *out);
        out->count = parts(n) < PARTS ? parts(n) : PARTS;
        for (u32 p = 0; p < out->count; p++) out->ids[p] = 100 + p;
        return OK;
    }
    partition *out = buf;
    if (size != sizeof *out || (which != 0 && which != 5)) return INVALID;
    if (out->id < 100 || out->id >= 100 + parts(n)) return INVALID;
    if (which == 0) {
        strcpy(out->of.name, "vir04");
        out->of.comp.aic = 4;
        out->of.comp.memory = 6144;
    } else {
        out->of.comp.load = value(12);
        out->of.comp.memory_total = sentinel() ? ~0ull : 6ull << 20;
        out->of.comp.memory_free = sentinel() ? ~0ull : 5ull << 20;
    }
    return OK;
}

int NAME(dcmi_get_device_info, dcmiv2_get_device_info)(CHIP, int group, u32 which, void *buf, u32 *size) {
    BEGIN;
    if (group == 8 && which == 10) {
        if (*size != sizeof(power)) return INVALID;
        ((power *)buf)->rated = 350000;
        return OK;
    }
    if (group == 16 && which == 5) {
        counters *out = buf;
        if (*size != sizeof *out) return INVALID;
        memset(out, 0, sizeof *out);
        for (int p = 1; p < 8; p++) {
            out->tx[p] = sentinel() ? ~0ull : 1000;
            out->rx[p] = sentinel() ? ~0ull : 2000;
            out->crc[p] = sentinel() ? ~0ull : 1;
        }
        return OK;
    }
    if (group == 16 && which == 1) {
        lanes *out = buf;
        if (*size != sizeof *out) return INVALID;
        memset(out, 0, sizeof *out);
        out->ports = 0xfe;
        for (int p = 0; p < 7; p++) out->lanes[p] = p == 3 ? 0 : 1 | 0x1e | 2 << 9;
        return OK;
    }
    return group == 52 ? resource(n, which, buf, *size) : NOT_SUPPORTED;
}
#endif
