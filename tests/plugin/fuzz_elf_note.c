/* SPDX-License-Identifier: Apache-2.0 */
/* The reader that judges plugin files before anything of them is mapped. */
#include <stdlib.h>
#include <string.h>

#include "plugin/elf.h"
#include "plugin/note.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const libraries[] = {"libjansson.so"};
    struct note_host host = {.build = TN_BUILD_KIND, .libraries = libraries, .n_libraries = 1};
    tn_err err = TN_ERR_INIT;
    struct elf elf;
    tn_note note;

    if (elf_open(data, size, "fuzz.so", &elf, &err) != TN_OK ||
        note_read(&elf, &note, &err) != TN_OK)
        return 0;
    /* What note_read promises. */
    if (strnlen(note.name, sizeof note.name) == sizeof note.name || note.name[0] == '\0')
        abort();
    note_judge(&elf, &note, &host, &err);
    return 0;
}
