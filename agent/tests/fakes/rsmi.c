/* A library with ROCm SMI's functions, as AMD's and Hygon's have: two cards, one process that computes on the first.
 *
 * Built with OLD it has the structures of some years ago: clocks without the leading `bool`, and processes that are but
 * two numbers. A card that is lost answers nothing.
 */
#include "fake.h"

#include <stdbool.h>

typedef uint32_t u32;
typedef uint64_t u64;

enum { OK = 0, INVALID = 1, NOT_SUPPORTED = 2, FILE_ERROR = 3, NOT_FOUND = 10, TOO_SMALL = 11, BUSY = 16 };
enum { CARDS = 2 };

/* Every function of a device begins so. */
#define BEGIN(d) \
    FAKE_ENTER(); \
    if ((d) >= CARDS) return INVALID; \
    if (fake_is_lost(d)) return FILE_ERROR

static int sentinel(void) { return fake_has("sentinel"); }
static u32 value(u32 number) { return sentinel() ? 0xffffffffu : number; }
static u64 wide(u64 number) { return sentinel() ? ~0ull : number; }
static int text(char *out, size_t length, const char *what) {
    if (strlen(what) + 1 > length) return TOO_SMALL;
    strcpy(out, what);
    return OK;
}

u32 rsmi_init(u64 flags) {
    FAKE_ENTER();
    printf("a library that prints\n");
    fflush(stdout);
    return flags ? INVALID : OK;
}
u32 rsmi_shut_down(void) { FAKE_ENTER(); return OK; }
u32 rsmi_status_string(u32 status, const char **out) {
    *out = status == BUSY ? "RSMI_STATUS_BUSY: Some resource was busy" : "Some status";
    return OK;
}
typedef struct { u32 major, minor, patch; const char *build; } version;
u32 rsmi_version_get(version *out) {
    FAKE_ENTER();
#ifdef OLD
    *out = (version){5, 0, 0, "old"};
#else
    *out = (version){7, 6, 0, "new"};
#endif
    return OK;
}
u32 rsmi_version_str_get(int component, char *out, u32 length) {
    FAKE_ENTER();
    return component ? INVALID : text(out, length, "6.8.5");
}
u32 rsmi_num_monitor_devices(u32 *out) { FAKE_ENTER(); *out = CARDS; return OK; }
u32 rsmi_dev_unique_id_get(u32 d, u64 *out) { BEGIN(d); *out = 0xabc0 + d; return OK; }
u32 rsmi_dev_name_get(u32 d, char *out, size_t length) { BEGIN(d); return text(out, length, "K100_AI"); }
u32 rsmi_dev_serial_number_get(u32 d, char *out, u32 length) { BEGIN(d); return text(out, length, "T7A0001"); }
u32 rsmi_dev_vbios_version_get(u32 d, char *out, u32 length) { BEGIN(d); return text(out, length, "113-D67301"); }
u32 rsmi_dev_pci_id_get(u32 d, u64 *out) { BEGIN(d); *out = d ? 0x6500 : 0x1700; return OK; }
u32 rsmi_dev_pci_replay_counter_get(u32 d, u64 *out) { BEGIN(d); *out = wide(4); return OK; }
#ifndef WITHOUT_BUSY
u32 rsmi_dev_busy_percent_get(u32 d, u32 *out) {
    BEGIN(d);
    /* It may fail while everything else works: that is not a load of nothing. */
    if (fake_has("busy")) return BUSY;
    *out = value(40);
    return OK;
}
#endif
u32 rsmi_dev_memory_busy_percent_get(u32 d, u32 *out) { BEGIN(d); *out = value(30); return OK; }
u32 rsmi_dev_memory_total_get(u32 d, int kind, u64 *out) { BEGIN(d); if (kind) return INVALID; *out = 64ull << 30; return OK; }
u32 rsmi_dev_memory_usage_get(u32 d, int kind, u64 *out) { BEGIN(d); if (kind) return INVALID; *out = wide(20ull << 30); return OK; }
u32 rsmi_dev_power_ave_get(u32 d, u32 sensor, u64 *out) { BEGIN(d); if (sensor) return INVALID; *out = wide(71250000); return OK; }
u32 rsmi_dev_power_cap_get(u32 d, u32 sensor, u64 *out) { BEGIN(d); if (sensor) return INVALID; *out = wide(300000000); return OK; }
u32 rsmi_dev_energy_count_get(u32 d, u64 *out, float *unit, u64 *at) {
    BEGIN(d);
    *out = wide(1000000);
    *unit = 15.25f;
    *at = 1;
    return OK;
}
u32 rsmi_dev_temp_metric_get(u32 d, u32 sensor, int metric, int64_t *out) {
    BEGIN(d);
    if (sensor > 2) return NOT_SUPPORTED;
    if (metric == 0) *out = sentinel() ? INT64_MAX : 54000 + (int64_t)sensor * 5000;
    else if (metric == 5) *out = 100000;
    else if (metric == 7) *out = 105000;
    else return NOT_SUPPORTED;
    return OK;
}
u32 rsmi_dev_volt_metric_get(u32 d, int which, int metric, int64_t *out) { BEGIN(d); (void)which; (void)metric; *out = sentinel() ? 0 : 881; return OK; }
u32 rsmi_dev_fan_speed_get(u32 d, u32 sensor, int64_t *out) { BEGIN(d); (void)sensor; *out = 51; return OK; }
u32 rsmi_dev_fan_speed_max_get(u32 d, u32 sensor, u64 *out) { BEGIN(d); (void)sensor; *out = 255; return OK; }

#ifdef OLD
typedef struct { u32 count, current; u64 clocks[32]; } frequencies;
#else
typedef struct { bool has_deep_sleep; u32 count, current; u64 clocks[33]; } frequencies;
#endif
u32 rsmi_dev_gpu_clk_freq_get(u32 d, int clock, frequencies *out) {
    BEGIN(d);
    memset(out, 0, sizeof *out);
    out->count = sentinel() ? 0xffffffffu : 2;
    out->current = 1;
    out->clocks[0] = 600000000;
    out->clocks[1] = clock == 0 ? 1500000000 : clock == 4 ? 1800000000 : 0;
    return clock == 0 || clock == 4 ? OK : NOT_SUPPORTED;
}
typedef struct { u64 corrected, uncorrected; } errors;
u32 rsmi_dev_ecc_count_get(u32 d, u64 block, errors *out) {
    BEGIN(d);
    if (block != 1 && block != 4) return NOT_SUPPORTED;
    *out = (errors){3 * block, block};
    return OK;
}

#ifdef OLD
typedef struct { u32 pid, pasid; } process;
#else
typedef struct { u32 pid, pasid; u64 memory, copying; u32 occupancy; } process;
#endif
u32 rsmi_compute_process_info_get(process *out, u32 *count) {
    FAKE_ENTER();
    u32 room = *count;
    *count = 2;
    if (!out) return OK;
    if (room < 2) return TOO_SMALL;
    memset(out, 0, 2 * sizeof *out);
    out[0].pid = 4242;
    out[1].pid = 977;
    return OK;
}
#ifndef OLD
u32 rsmi_compute_process_info_by_device_get(u32 pid, u32 d, process *out) {
    BEGIN(d);
    if (d != 0 || pid != 4242) return NOT_FOUND;
    *out = (process){pid, 32769, 1ull << 30, 5, 25};
    return OK;
}
#endif
