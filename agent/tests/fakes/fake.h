/* What every fake vendor library has in common: the scenario it plays.
 *
 * The scenario is in a file beside the library, named as the library and `.mode`. It is read at every call, so a test
 * can change it while a worker runs. It holds words, with `;` or line ends between them:
 *
 *   normal            nothing special (also when there is no file)
 *   hang FUNCTION     that function does not return until this line goes
 *   crash FUNCTION    that function ends the process
 *   sentinel          values are those the vendor uses for "not known"
 *   lost N            card N (from 0) has fallen off the bus
 *   partitions N      the first card is cut into N partitions
 *
 * and whatever else one vendor's test needs: `fake_has("word")`, `fake_number("word", without)`.
 */
#ifndef NODESCOPE_FAKE_H
#define NODESCOPE_FAKE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define FAKE_MAYBE __attribute__((unused)) static

static char fake_here;

/* What the scenario says after `word`, in `argument`; 0 when it does not have that word. */
FAKE_MAYBE int fake_word(const char *word, char *argument, size_t size) {
#ifdef FAKE_STILL
    /* Nothing ever happens: for whoever measures what the agent costs, and not what this file does. */
    (void)word, (void)argument, (void)size;
    return 0;
#endif
    char path[4096], text[4096];
    Dl_info info;
    if (!dladdr(&fake_here, &info) || !info.dli_fname) return 0;
    snprintf(path, sizeof path, "%s.mode", info.dli_fname);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    char *rest = text, *line;
    size_t word_length = strlen(word);
    while ((line = strsep(&rest, ";\n"))) {
        line += strspn(line, " \t");
        if (strncmp(line, word, word_length)) continue;
        char after = line[word_length];
        if (after && after != ' ' && after != '\t') continue;
        line += word_length;
        line += strspn(line, " \t");
        if (argument) {
            snprintf(argument, size, "%s", line);
            argument[strcspn(argument, " \t")] = 0;
        }
        return 1;
    }
    return 0;
}

FAKE_MAYBE int fake_has(const char *word) { return fake_word(word, NULL, 0); }

/* The number after `word`, or `without` when the scenario does not have that word. */
FAKE_MAYBE long fake_number(const char *word, long without) {
    char argument[64];
    return fake_word(word, argument, sizeof argument) ? strtol(argument, NULL, 0) : without;
}

/* Whether card N is lost. */
FAKE_MAYBE int fake_is_lost(long card) { return fake_number("lost", -1) == card; }

/* To be called first in every function: plays `hang` and `crash`. */
FAKE_MAYBE void fake_enter(const char *function) {
    char argument[256];
    if (fake_word("crash", argument, sizeof argument) && !strcmp(argument, function)) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        abort();
    }
    while (fake_word("hang", argument, sizeof argument) && !strcmp(argument, function)) usleep(10000);
}

#define FAKE_ENTER() fake_enter(__func__)

/* Microseconds since 1970, as libraries stamp their samples. */
FAKE_MAYBE uint64_t fake_now_micros(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

#endif
