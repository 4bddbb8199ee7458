/* A library that has none of the functions looked for. */
#include "fake.h"

int nodescope_fake_empty(void) {
    FAKE_ENTER();
    return fake_has("normal");
}
