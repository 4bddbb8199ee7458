/* Hygon's libraries in one: ROCm SMI's functions, and those of virtual devices, which `partitions N` makes of the first
 * card. Their numbers have a gap after the first.
 */
#include "rsmi.c"

typedef struct {
    char name[256];
    int compute_units;
    size_t memory, memory_used;
    u64 container;
    int card;
} device_info;

enum { NO_SUCH_DEVICE = 15 };

int dmiGetMaxVDeviceCount(int *out) { FAKE_ENTER(); *out = 4; return OK; }

static int is_there(int number) {
    int place = number == 0 ? 0 : number - 1;
    return number != 1 && number >= 0 && place < fake_number("partitions", 0);
}
int dmiGetVDeviceInfo(int number, device_info *out) {
    FAKE_ENTER();
    if (!is_there(number)) return NO_SUCH_DEVICE;
    memset(out, 0, sizeof *out);
    strcpy(out->name, "K100_AI");
    out->compute_units = 30;
    out->memory = 16ull << 30;
    out->memory_used = 1ull << 30;
    out->card = 0;
    return OK;
}
int dmiGetVDevBusyPercent(int number, int *out) {
    FAKE_ENTER();
    if (!is_there(number)) return NO_SUCH_DEVICE;
    *out = sentinel() ? -1 : 50 + number;
    return OK;
}
